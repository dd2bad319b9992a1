"""The weights of a checkpoint as a file to give away: `python -m src export`."""

import json
import os
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from src.engine.weights import HELD, SUFFIX, read_checkpoint


def export(ckpt_path: str, output: str) -> None:
    """Write what `validate`, `test` and `predict` need of a checkpoint, as safetensors: no optimizers, no code.

    Args:
        ckpt_path: checkpoint to take the weights from.
        output: the file, .safetensors, which takes the place of a checkpoint in these commands.

    Raises:
        ValueError: as `read_checkpoint`, or for another suffix.
        OSError: the file cannot be written; one that was there before is whole.
    """
    if Path(output).suffix != SUFFIX:
        raise ValueError(f"--output {output} must end in {SUFFIX}")
    checkpoint = read_checkpoint(ckpt_path)
    weights = {name: weight.contiguous() for name, weight in checkpoint.pop("state_dict").items()}
    told = {name: checkpoint[name] for name in (*HELD, "versions", "pytorch-lightning_version") if name in checkpoint}
    temporary = Path(f"{output}.tmp")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, temporary, metadata={"checkpoint": json.dumps(told)})
        os.replace(temporary, output)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(f"{output} could not be written ({error}): choose another --output") from error
    print(f"step {told['global_step']} of {ckpt_path} in {output}, {Path(output).stat().st_size / 1e6:.1f} MB")
