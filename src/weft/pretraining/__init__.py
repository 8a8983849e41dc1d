"""Backbones where no hub is: trained from scratch on catalogue text."""
