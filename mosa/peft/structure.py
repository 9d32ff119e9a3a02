"""What a model is made of: put back as it was, and what attaching a method changes of it, taken back."""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mosa.peft.statistics import has_statistics, is_frozen

OWN = ("peft", "mosa_inactive", "mosa_merged")  # what this package keeps on a model about its methods
TENSORS = ("_parameters", "_buffers")


class Absent:
    """Stands for no value; the class itself is meant, which copies and pickles keep."""


class Place(NamedTuple):
    """An attribute of a module, or an item of one of its dictionaries, such as `_modules`."""

    module: nn.Module
    dictionary: str | None
    key: Any

    @property
    def holder(self) -> dict[Any, Any]:
        """The dictionary that has it."""
        attributes = vars(self.module)
        return attributes if self.dictionary is None else attributes[self.dictionary]

    @property
    def value(self) -> Any:
        """What is there now, or `Absent`."""
        return self.holder.get(self.key, Absent)


class Structure:
    """What a model is made of, so that all of it can be put back.

    Args:
        model: The model; nothing of it is copied but its dictionaries.
    """

    def __init__(self, model: nn.Module) -> None:
        self.attributes = [(module, dict(vars(module))) for module in model.modules()]
        self.dictionaries = [
            (module, name, value, value.copy())
            for module, attributes in self.attributes
            for name, value in attributes.items()
            if isinstance(value, dict)
        ]
        self.parameters = [(each, each.data, each.requires_grad) for each in model.parameters()]
        self.tensors = dict(tensor_places(model))

    def restore(self) -> None:
        """Put modules, parameters, buffers, hooks and attributes back, and what requires a gradient."""
        for module, attributes in self.attributes:
            vars(module).clear()
            vars(module).update(attributes)
        for _, _, dictionary, content in self.dictionaries:  # in place: handles of hooks refer to theirs
            dictionary.clear()
            dictionary.update(content)
        for parameter, data, requires_grad in self.parameters:
            parameter.data = data
            parameter.requires_grad_(requires_grad)

    def differences(self) -> dict[Place, Any]:
        """Return what was in each place that has changed since."""
        found: dict[Place, Any] = {}
        for module, attributes in self.attributes:
            for key in _changed(attributes, vars(module)):
                if key not in OWN:
                    found[Place(module, None, key)] = attributes.get(key, Absent)
        for module, name, _, content in self.dictionaries:
            present = vars(module).get(name)
            if name not in OWN and isinstance(present, dict):
                found.pop(Place(module, None, name), None)
                for key in _changed(content, present):
                    found[Place(module, name, key)] = content.get(key, Absent)
        return found


def _changed(before: dict[Any, Any], after: dict[Any, Any]) -> list[Any]:
    return [key for key in {**before, **after} if before.get(key, Absent) is not after.get(key, Absent)]


def tensor_places(model: nn.Module) -> Iterator[tuple[str, Place]]:
    """Yield the name and the place of each parameter and buffer of a model, each tensor once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for dictionary in TENSORS:
            for key, value in getattr(module, dictionary).items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{key}" if prefix else key, Place(module, dictionary, key)


def shared_places(model: nn.Module, places: dict[str, Place]) -> dict[str, Place]:
    """Return those of a backbone's places whose tensors a model has."""
    reachable = {id(each) for each in chain(model.parameters(), model.buffers())}
    return {name: place for name, place in places.items() if id(place.value) in reachable}


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a model, in half the time of `copy.deepcopy`.

    A module has a dozen empty dictionaries, most of them for hooks, and `copy` takes long over each.

    Args:
        model: The model.
        memo: Copies by the ids of their originals, where they are not to be deep ones; see `copy.deepcopy`.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for value in vars(module).values():
            if type(value) in (dict, OrderedDict, set) and not value:
                memo.setdefault(id(value), type(value)())
    return copy.deepcopy(model, memo)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have a model evaluate meanwhile, and put the mode of each of its modules back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


class Change:
    """What attaching a method changed of a backbone: `swap` takes it back, and makes it again.

    Frozen weights are shared by both states. What is tuned of the backbone are copies, made here, so that
    its own tensors stay as they are, also for other methods that stand on them.

    Args:
        model: The model with the method attached.
        before: The backbone.
        buffers: Names of the buffers that belong to the tuned state.

    Attributes:
        places: Where the two states differ.
        values: What is in each of these places in the state that the model is not in.
        asks: Each parameter of both states, and whether it requires a gradient in the other one.
        tuned: The backbone's names of what is tuned of it.
        owners: The modules that have these, as far as they are still part of the model.
    """

    def __init__(self, model: nn.Module, before: Structure, buffers: tuple[str, ...]) -> None:
        differences = before.differences()
        moved = {id(model.get_buffer(name)) for name in buffers if model.get_buffer(name) is not None}
        own: dict[int, Tensor] = {}
        self.tuned: list[str] = []
        for name, place in before.tensors.items():
            value = differences.get(place, place.value)
            if value.requires_grad or id(value) in moved:
                copy = value.detach().clone()
                own[id(value)] = nn.Parameter(copy) if isinstance(value, nn.Parameter) else copy
                self.tuned.append(name)
        known = {module for module, _ in before.attributes}
        present = set(model.modules())
        self.owners = {name: before.tensors[name].module for name in self.tuned}
        self.owners = {name: module for name, module in self.owners.items() if module in present}
        for module in present:
            for dictionary in TENSORS:
                for key, value in getattr(module, dictionary).items():
                    if id(value) in own:
                        if module in known:
                            differences.setdefault(Place(module, dictionary, key), value)
                        getattr(module, dictionary)[key] = own[id(value)]
        for parameter, _, requires_grad in before.parameters:
            if id(parameter) in own:
                parameter.requires_grad_(requires_grad)
        self.places, self.values = list(differences), list(differences.values())
        self.asks = [
            (each, requires_grad) for each, _, requires_grad in before.parameters if id(each) not in own
        ]
        touched = {place[:2] for place in self.places}
        self.orders = {
            (module, name): list(content)
            for module, name, _, content in before.dictionaries
            if (module, name) in touched
        }
        self.like = _kind(model)
        self.norms = [
            each for each in model.modules() if has_statistics(each) and each.training == model.training
        ]

    def swap(self, model: nn.Module) -> None:
        """Bring the model into the other state."""
        present = [place.value for place in self.places]
        orders = {(module, name): list(vars(module)[name]) for module, name in self.orders}
        for place, value in zip(self.places, self.values, strict=True):
            if value is Absent:
                place.holder.pop(place.key, None)
            else:
                place.holder[place.key] = value
        for (module, name), order in self.orders.items():
            _arrange(vars(module)[name], order)
        moved = _kind(model) if _kind(model) != self.like else None
        for place, old, new in zip(self.places, present, self.values, strict=True):
            _follow(place, old, new, moved, model.training)
        self.asks = [(each, _ask(each, requires_grad)) for each, requires_grad in self.asks]
        self.values, self.orders, self.like = present, orders, _kind(model)
        for norm in self.norms:
            norm.training = model.training

    def disturbed(self, model: nn.Module, backbone: dict[str, Place], trained: set[int]) -> str | None:
        """Return the name of a tensor of the backbone that was replaced or unfrozen since, or None.

        Args:
            model: The model with the method attached.
            backbone: The places of the tensors that it shares with the backbone.
            trained: The identities of tensors that were trained since, and may be frozen again.
        """
        shared, present = shared_places(model, backbone), set(model.modules())
        for name, module in self.owners.items():
            if module not in present:
                return name
        for name, place in backbone.items():
            touched = name not in shared or place.value.requires_grad or id(place.value) in trained
            if touched and name not in self.tuned:
                return name
        return None


class Watch:
    """Knows which tensors that were frozen at first were trained since, also if they are frozen again.

    Versions of tensors say less: loading and averaging move them, too, and some optimisers do not. It knows
    places, not tensors, as these may be replaced (`load_state_dict` with `assign=True`).

    Args:
        model: The model with a method attached.
    """

    def __init__(self, model: nn.Module) -> None:
        places = [place for _, place in tensor_places(model) if isinstance(place.value, nn.Parameter)]
        self.frozen = [place for place in places if not place.value.requires_grad]
        self.norms = [each for each in model.modules() if has_statistics(each) and is_frozen(each)]
        self.before: dict[Place, Tensor] = {}
        self.moved: set[Place] = set()

    def look(self) -> None:
        """Keep the values of what is unfrozen now for the first time: before each forward that may train."""
        unfrozen = [place for place in self.frozen if _is_tuned(place)]
        if not unfrozen:
            return
        for norm in self.norms:
            places = _own_places(norm)
            if any(_is_tuned(place) for place in places):
                unfrozen += places
        for place in unfrozen:
            if place not in self.before:
                self.before[place] = place.value.detach().clone()

    def trained(self) -> set[int]:
        """Return the identities of the tensors that were unfrozen and have other values than then."""
        return {id(place.value) for place in self._trained()}

    def _trained(self) -> set[Place]:
        moved = self.moved | {place for place, value in self.before.items() if not _same(place.value, value)}
        for norm in self.norms:  # of a norm all or nothing
            places = _own_places(norm)
            moved |= set(places) if moved & set(places) else set()
        return moved

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy keeps: what was trained, and the values of what is unfrozen and may be yet."""
        self.look()
        before = {place: value for place, value in self.before.items() if _is_tuned(place)}
        return {**vars(self), "before": before, "moved": self._trained()}


def _own_places(module: nn.Module) -> list[Place]:
    return [
        Place(module, dictionary, key)
        for dictionary in TENSORS
        for key, value in vars(module)[dictionary].items()
        if value is not None
    ]


def _is_tuned(place: Place) -> bool:
    return isinstance(place.value, Tensor) and place.value.requires_grad


def _same(now: Any, value: Tensor) -> bool:
    """Return whether a tensor has a value, which is from before it was moved to its device and its type."""
    return isinstance(now, Tensor) and now.shape == value.shape and torch.equal(now, value.to(now))


def _ask(parameter: nn.Parameter, requires_grad: bool) -> bool:
    """Set whether a parameter requires a gradient, and return what held before."""
    before = parameter.requires_grad
    parameter.requires_grad_(requires_grad)
    if not requires_grad:
        parameter.grad = None
    return before


def _arrange(dictionary: dict[Any, Any], order: list[Any]) -> None:
    """Bring the items of a dictionary into an order of its keys; others come last."""
    wanted = [key for key in order if key in dictionary]
    wanted += [key for key in dictionary if key not in set(wanted)]
    if wanted != list(dictionary):
        items = [(key, dictionary[key]) for key in wanted]
        dictionary.clear()
        dictionary.update(items)


def _kind(model: nn.Module) -> tuple[Any, Any] | None:
    """Return the device and the type of a model's first number."""
    first = next((each for each in model.parameters() if each.is_floating_point()), None)
    return None if first is None else (first.device, first.dtype)


def _follow(place: Place, old: Any, new: Any, moved: tuple[Any, Any] | None, training: bool) -> None:
    """Bring what enters a model to its device and mode, which may have changed while it was away."""
    if isinstance(new, nn.Module):
        if moved:
            new.to(*moved)
        if place.dictionary == "_modules":
            new.train(training)
        if isinstance(old, nn.Module) and new._backward_hooks is old._backward_hooks:  # see InPlaceOf
            new._is_full_backward_hook = old._is_full_backward_hook
    elif isinstance(new, Tensor) and isinstance(old, Tensor):
        if new.device != old.device or new.dtype != old.dtype:
            new.data = new.data.to(old)
    elif isinstance(new, Tensor) and moved:
        new.data = new.data.to(*moved) if new.is_floating_point() else new.data.to(moved[0])
