"""Gradients of an adapter, out of a checkpoint of lema's after one step."""
import math
import re

from safetensors.torch import load_file

BETA1 = 0.9


def first_gradients(checkpoint, shapes, modules):
    """{name: gradient} of the adapter's tensors, by name with their shapes. After one step from zero moments the first
    moment is (1 - beta1) times the gradient as clipped, in the adapter's own order: block, then module in execution
    order, A before B."""
    def order(name):
        block = int(re.search(r"\.(?:layers|h)\.(\d+)\.", name)[1])
        return block, next(i for i, module in enumerate(modules) if f".{module}." in name), "lora_B" in name
    names = sorted(shapes, key=order)
    moment = load_file(checkpoint / "state.safetensors")["moment1"] / (1 - BETA1)
    parts = moment.split([math.prod(shapes[name]) for name in names])
    return {name: part.view(shapes[name]) for name, part in zip(names, parts, strict=True)}
