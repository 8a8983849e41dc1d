"""`precision: auto` is bfloat16 only where torch's kernels multiply it in hardware."""

from __future__ import annotations

import pytest
import torch

from weft.backbones.load import dtype_of


@pytest.mark.parametrize(
    ("capabilities", "kernels", "limit", "wanted"),
    [
        ({"avx512_bf16": True}, "AVX512", None, torch.bfloat16),
        ({"amx_bf16": True}, "AVX512", "AVX512_CORE_AMX", torch.bfloat16),
        ({"avx512_bf16": True}, "AVX2", None, torch.float32),  # ATEN_CPU_CAPABILITY=avx2
        ({"avx512_bf16": True}, "AVX512", "AVX2", torch.float32),
        ({"avx512_bf16": True}, "AVX512", "avx512_core", torch.float32),
        ({"avx2": True}, "AVX2", None, torch.float32),
        ({"bf16": True}, "DEFAULT", None, torch.bfloat16),  # of ARM
    ],
)
def test_kernels_that_are_held_back_don_t_get_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: dict[str, bool],
    kernels: str,
    limit: str | None,
    wanted: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert dtype_of("auto") is wanted
    assert dtype_of("bfloat16") is torch.bfloat16  # what is asked for is taken
