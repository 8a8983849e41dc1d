"""X-Cross (SIGIR 2025): frozen adapters of other domains, integrated layer by layer."""
