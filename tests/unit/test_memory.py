"""Memory that is counted without computing is the memory that is taken."""

import re

import pytest
import torch
from click.testing import CliRunner
from models import METHODS, SMALL, attach, batch, build
from torch.profiler import ProfilerActivity, profile

from mosa import peft
from mosa.cli import commands as cli
from mosa.engine.cost import memory
from mosa.engine.cost.memory import fitting, step_memory
from mosa.engine.machine import CPU, Machine
from mosa.engine.optimizer import build_optimizer
from mosa.experiment.recipe import Recipe
from mosa.peft.losses import tuning_loss

RECIPE = Recipe()
CHECKPOINTING = Machine(gradient_checkpointing=True)


def measured(model, size: int) -> int:
    """Peak bytes of a real step, as torch's profiler counts them."""
    optimizer = build_optimizer(model.train(), RECIPE)
    images, labels = batch(size)

    def step():
        tuning_loss(model, images, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    resting = [*model.parameters(), *model.buffers(), images, labels]
    resting += [value for entry in optimizer.state.values() for value in entry.values()]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    held = peak = 0
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak + sum(tensor.nbytes for tensor in resting)


@pytest.mark.parametrize("method", METHODS)
def test_the_count_is_what_the_profiler_measures_and_nothing_of_a_step_is_left_after_it(method):
    """Under checkpointing, too, where a tensor that a module holds on to holds the whole recomputation.

    64 images, as the scratch of a convolution has a fixed size, and is not counted.
    """
    model = build()
    model.blocks = model.blocks[:2]
    attach(model, method, **SMALL.get(method, {}))
    before = {name: p.clone() for name, p in model.named_parameters()}
    tuned = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    resting = sum(t.nbytes for t in (*model.parameters(), *model.buffers())) + 2 * tuned  # AdamW's two
    resting += 64 * 3 * 32**2 * 4  # images
    plain, checkpointing = (step_memory(model, 32, 64, RECIPE, m) for m in (CPU, CHECKPOINTING))
    for counted in (plain, checkpointing):
        # A tensor of tokens may be left: a block's first input.
        assert counted.resting == pytest.approx(resting, abs=64 * 17 * 32 * 4)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert plain.peak == pytest.approx(measured(model, 64), rel=0.003)


def test_checkpointing_and_bfloat16_take_less():
    model = peft.attach(build(), "mosa", bottleneck=8)
    plain = step_memory(model, 32, 64, RECIPE, CPU).peak
    assert step_memory(model, 32, 64, RECIPE, CHECKPOINTING).peak < 0.7 * plain
    assert step_memory(model, 32, 64, Recipe(precision="bfloat16"), CPU).peak < 0.9 * plain


def test_what_fits_is_what_the_count_says():
    model = peft.attach(build(), "lora")
    size_of, images_in = fitting(model, 32, RECIPE, CPU)
    for images in (32, 128):
        assert size_of(images) == pytest.approx(step_memory(model, 32, images, RECIPE, CPU).peak, rel=0.01)
    limit = 20 << 20
    assert size_of(images_in(limit)) <= limit < size_of(images_in(limit) + 1)
    assert images_in(0) == 0


def test_the_masks_of_dropout_count(tmp_path):
    config = tmp_path / "dropout.yaml"
    dropped = "lora: {by_task: {demo/count: {training: {drop_rate: 0.1}}}}"
    others = "linear: null, full: null, adapter: null, mosa: null"
    config.write_text(f"variants: {{{others}, {dropped}}}\n")
    done = CliRunner().invoke(cli.cli, ["memory", "--configfile", str(config)])
    assert done.exit_code == 0, done.output
    sizes = re.findall(r"^micro_vit +lora \(demo/\w+\) +float32 +32 +(\S+)", done.stdout, re.MULTILINE)
    assert float(sizes[1]) > 1.05 * float(sizes[0])  # digits without dropout, count with it


def test_every_variant_has_a_row_and_one_for_each_task_that_differs(monkeypatch, tmp_path):
    """The first one's count stands for all."""
    sizes = tmp_path / "sizes.yaml"
    swept = "adapter: {bottleneck: [4]}, lora: {rank: [2]}, mosa: {bottleneck: [4]}"
    larger = "adapter: {by_task: {demo/count: {training: {batch_size: 64}}}}"
    sizes.write_text(f"sweeps: {{size: {{{swept}}}}}\nvariants: {{{larger}}}")
    kept = {}

    def count(model, image_size, images, *how):
        if images not in kept:
            kept[images] = step_memory(model, image_size, images, *how)
        return kept[images]

    monkeypatch.setattr(memory, "step_memory", count)
    done = CliRunner().invoke(cli.cli, ["memory", "--configfile", str(sizes)])
    assert done.exit_code == 0, done.output
    rows = re.findall(r"^micro_vit +(\S+(?: \(\S+\))?) +float32 +(\d+)", done.stdout, re.MULTILINE)
    assert rows == [
        *((name, "32") for name in ("linear", "full")),
        *(("adapter (demo/digits)", "32"), ("adapter (demo/count)", "64")),
        *((name, "32") for name in ("lora", "mosa")),
        *(("adapter_bottleneck4 (demo/digits)", "32"), ("adapter_bottleneck4 (demo/count)", "64")),
        *((name, "32") for name in ("lora_rank2", "mosa_bottleneck4")),
    ]
    assert re.findall(r"^counting (\d+) of 10: micro_vit, (.+)$", done.stderr, re.MULTILINE) == [
        (str(number), variant) for number, (variant, _) in enumerate(rows, start=1)
    ]
