"""A second device for machines that have none, on which numbers are as on the CPU and mixing is an error as on a GPU.

Its tensors say that they are on ``meta``, hold their numbers on the CPU, and exist inside of `second_device`. As on a
GPU, an operation refuses tensors of both devices but for single numbers and for indices; `Tensor.numpy` refuses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

SECOND = torch.device("meta")
CPU = torch.device("cpu")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """The device, for as long as the block lasts."""
    with _Dispatch(), _Functions():
        yield SECOND


class _SecondTensor(Tensor):
    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> _SecondTensor:
        return Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=SECOND
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of second_device")


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        with self:  # in inference mode, operations come here that are made of others
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        # A wrapper that is made in inference mode could be no view of one that is not.
        with torch.inference_mode(False), torch._C._AutoDispatchBelowAutograd():
            return self._run(func, args, kwargs)

    def _run(self, func, args: tuple, kwargs: dict):
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        _require_one_device(func, args, tensors)
        there = any(isinstance(tensor, _SecondTensor) for tensor in tensors)
        if kwargs.get("device") is not None:
            there, kwargs["device"] = kwargs["device"] == SECOND, CPU
        if func is torch.ops.aten.copy_.default:
            there = isinstance(args[0], _SecondTensor)
        held_args, held_kwargs = tree_map_only(_SecondTensor, lambda tensor: tensor.held, (args, kwargs))
        result = func(*held_args, **held_kwargs)
        if not there:
            return result
        result = tree_map_only(Tensor, _SecondTensor, result)
        if not any(isinstance(tensor, _SecondTensor) for tensor in tensors):
            return result
        return return_and_correct_aliasing(func, args, kwargs, result)


def _require_one_device(func, args: tuple, tensors: list[Tensor]) -> None:
    if func in COPIES:
        return
    if func in INDEXING and isinstance(args[0], _SecondTensor):  # whose indices may be on the CPU
        tensors = [tensor for tensor in (args[0], *args[2:3]) if isinstance(tensor, Tensor)]
    if len({isinstance(tensor, _SecondTensor) for tensor in tensors if tensor.ndim}) > 1:
        raise RuntimeError(f"{func} of tensors on two devices")


class _Functions(TorchFunctionMode):
    """What never reaches `_Dispatch`, since it takes a tensor on ``meta`` for one without numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == SECOND:
            return func(*args, **{**kwargs, "device": CPU}).to(SECOND)
        if func is Tensor.tolist:
            return args[0].cpu().tolist() if isinstance(args[0], _SecondTensor) else func(*args, **kwargs)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], tree_map_only(list, torch.tensor, args[1], is_leaf=_is_list), *args[2:])
        return func(*args, **kwargs)


def _is_list(value: object) -> bool:
    return isinstance(value, list)
