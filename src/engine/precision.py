"""Which arithmetic `--trainer.precision auto` stands for on this machine."""

import torch


def automatic(accelerator: str) -> tuple[str, str]:
    """bf16-mixed where it is faster than float32: on a GPU with bfloat16, on a processor with AMX.

    Not on AVX512-BF16 alone: there a step at 32x32 (DCGAN, SNGAN, `configs/folder.yaml`) took 1.2 to 1.5 times as long
    as in float32, both in channels_last.

    Args:
        accelerator: `trainer.accelerator`.

    Returns:
        The precision, and why.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        found = torch.cuda.is_bf16_supported(including_emulation=False)
        device, what = torch.cuda.get_device_name(), "bfloat16"
    elif accelerator in ("auto", "cpu"):
        found = torch.cpu.get_capabilities().get("amx_bf16", False)
        device, what = "this processor", "AMX, which makes bfloat16 fast"
    else:
        return "32-true", f"bfloat16 was not tried on accelerator {accelerator}"
    return ("bf16-mixed", f"{device} has {what}") if found else ("32-true", f"{device} has no {what}")
