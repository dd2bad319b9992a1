"""Advice when a GPU's memory runs out."""

from types import SimpleNamespace

import pytest
import torch
from conftest import Squares, make_gan

from src.callbacks.memory import MemoryAdvice, advice

GIB = 2**30


def test_the_batch_that_is_named_fits_by_its_own_account():
    line = advice(batch_size=64, parts=1, accumulate=1, fixed=2 * GIB, peak=16 * GIB, total=16 * GIB)
    assert "at most 56 fit" in line  # (0.9 * 16 - 2) / (14 / 64)
    assert "--model.accumulate 2 " in line and "--data.batch_size 56 " in line


def test_processes_and_parts_are_counted():
    line = advice(batch_size=64, parts=8, accumulate=4, fixed=0, peak=32 * GIB, total=16 * GIB)
    assert "for 8 images at once; at most 3 fit" in line  # 4 GiB an image
    assert "--model.accumulate 16 " in line and "--data.batch_size 24 " in line


def test_networks_that_are_too_large_are_named():
    assert "smaller networks" in advice(64, 1, 1, fixed=15 * GIB, peak=16 * GIB, total=16 * GIB)


def test_the_trainer_passes_the_advice_on(monkeypatch):
    gan = make_gan()
    monkeypatch.setattr(type(gan), "device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 16 * GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 16 * GIB)
    properties = SimpleNamespace(total_memory=16 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    trainer = SimpleNamespace(optimizers=[], datamodule=Squares(), world_size=1, state=SimpleNamespace(fn="fit"))
    with pytest.raises(ValueError, match="too small for 8 images at once; at most 7 fit: --model.accumulate 2 "):
        MemoryAdvice().on_exception(trainer, gan, torch.OutOfMemoryError("CUDA out of memory"))
    MemoryAdvice().on_exception(trainer, gan, KeyboardInterrupt())
    trainer.state.fn = "predict"  # whose batches are others
    MemoryAdvice().on_exception(trainer, gan, torch.OutOfMemoryError("CUDA out of memory"))
