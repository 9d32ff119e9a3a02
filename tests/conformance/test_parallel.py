"""DistributedDataParallel trains what one process trains on the whole batch; where it cannot, it says so."""

import os
import re

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from mosa import peft
from mosa.base.errors import UserError

OPTIONS = {
    "mosa": {"bottleneck": 4, "experts": 2, "split": "both", "dropout": 0.0, "feature_consistency": 0.1},
    "lora": {"rank": 2, "second_pass": 0.5},
    "vpt": {"prompts": 2, "dropout": 0.0},
}
RANKS, STEPS = 2, 3


def model_for(method):
    from models import build

    return peft.attach(build(dtype=torch.float64), method, seed=3, **OPTIONS[method]).train()


def share(rank, step):
    """Return the images and labels of a process; of all processes, if there is no rank."""
    from models import batch

    images, labels = batch(2 * RANKS, seed=step, dtype=torch.float64)
    part = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    return images[part], labels[part]


def train(model, own, rank):
    """Train some steps of SGD, and return what is tuned, and the gradients of the last step."""
    tuned = [each for each in own.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(tuned, lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        peft.tuning_loss(model, *share(rank, step)).backward()
        optimizer.step()
    return [each.detach() for each in tuned], [each.grad for each in tuned]


def work(rank, folder):
    """Do all that two processes must do; what they find is compared by the test."""
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS
    )
    found, said = {}, {}
    for method in OPTIONS:
        own = model_for(method)
        found[method] = train(DistributedDataParallel(own), own, rank)
    refuse = {}
    own = model_for("lora")
    wrapped = DistributedDataParallel(own)
    refuse["inner"] = lambda: peft.tuning_loss(own, *share(rank, 0))
    refuse["attach"] = lambda: peft.attach(wrapped, "lora")
    refuse["merge"] = lambda: peft.merge(wrapped)

    def late():
        peft.attach(own, "bias", name="other")
        peft.tuning_loss(wrapped, *share(rank, 0))

    def late_call():
        wrapped(share(rank, 0)[0])

    refuse |= {"late": late, "late call": late_call}
    for name, call in refuse.items():
        try:
            call()
        except UserError as error:
            said[name] = str(error)
    own.eval()
    own(share(rank, 0)[0])  # evaluation of the model itself is right
    torch.save((found, said), f"{folder}/{rank}")
    distributed.destroy_process_group()


def test_two_processes_train_what_one_trains(tmp_path):
    multiprocessing.start_processes(work, (str(tmp_path),), nprocs=RANKS, start_method="fork")
    (first, said), (second, _) = (torch.load(tmp_path / str(rank)) for rank in range(RANKS))
    for method in OPTIONS:
        for one, other in zip(first[method][0], second[method][0], strict=True):
            assert torch.equal(one, other), method
        own = model_for(method)
        values, gradients = train(own, own, None)
        torch.testing.assert_close(first[method][0], values, atol=1e-12, rtol=0)
        torch.testing.assert_close(first[method][1], gradients, atol=1e-12, rtol=0)
    words = {
        "inner": "was called without it",
        "attach": "attach to the model itself",
        "merge": "merge the model itself",
        "late": "DistributedDataParallel does not know it",
        "late call": "DistributedDataParallel does not know it",
    }
    assert said.keys() == words.keys()
    for name, word in words.items():
        assert re.search(word, said[name]), (name, said[name])


def test_what_is_not_supported_says_so():
    with pytest.raises(UserError, match="DataParallel is not supported"):
        peft.tuning_loss(torch.nn.DataParallel(model_for("lora")), *share(None, 0))


@pytest.mark.thorough  # torch.compile takes seconds to import
def test_names_are_those_of_the_model_itself():
    model = model_for("lora")
    compiled = torch.compile(model)
    assert peft.tuned_state_dict(compiled).keys() == peft.tuned_state_dict(model).keys()
    assert peft.count_parameters(compiled) == peft.count_parameters(model)
