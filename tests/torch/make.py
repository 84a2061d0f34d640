"""Writes the files of partial, wrapped and 16-bit models, and of bitsandbytes 0.50.2 on the CPU, beside it, with PyTorch
2.15: python tests/torch/make.py, or with the names of some.

`NAME.5` is after 5 steps, `NAME.8` after 8; `mixed.wide` has the numbers of `mixed.5` as f32.

`python tests/torch/make.py FILE NAME` loads a FILE of `save_torch` after step 5, goes on to step 8 and compares. The
suite writes such files into the folder `$WGPU_OPTIM_EXPORTS`.
"""

import pathlib
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from torch import nn

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent.parent / "examples"))
import torch_optimizer


def model(names):
    """Linear layers of these names, with numbers that are the same everywhere."""
    layers = nn.ModuleDict({name: nn.Linear(3, 2) for name in names})
    for parameter in layers.parameters():
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float32).view_as(parameter) / 4 - 0.5
    return layers


def partial():
    """A frozen backbone, and an optimizer over the head."""
    layers = model(["backbone", "head"])
    layers["backbone"].requires_grad_(False)
    return layers, torch.optim.Adam(layers["head"].parameters(), lr=0.01)


def wrapped():
    """Compiled and data parallel; with a shared weight, a frozen parameter in a group, named groups, a rate as a tensor."""
    layers = model(["embed", "middle", "decode"])
    layers["decode"].weight = layers["embed"].weight
    layers["middle"].bias.requires_grad_(False)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:29411", rank=0, world_size=1)
    layers = nn.parallel.DistributedDataParallel(torch.compile(layers))
    of = lambda end: [parameter for name, parameter in layers.named_parameters() if name.endswith(end)]
    groups = [
        {"params": of("weight"), "name": "decayed", "depth": 3, "lr": torch.tensor(0.02, dtype=torch.float64)},
        {"params": of("bias"), "name": "plain", "weight_decay": 0.0, "tags": ["no decay"]},
    ]
    return layers, torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)


def mixed():
    """Parameters and states in bfloat16 and float16 beside f32."""
    layers = model(["bf16", "f16", "f32"])
    layers["bf16"].bfloat16()
    layers["f16"].half()
    return layers, torch.optim.NAdam(layers.parameters(), lr=0.01, eps=1e-4)


def eight_bits(name, **options):
    """One of bitsandbytes' optimizers: the weight has states in 8 bits, the bias in f32."""

    def make():
        import bitsandbytes

        layers = nn.ModuleDict({"large": nn.Linear(64, 65)})
        for parameter in layers.parameters():
            parameter.data = (torch.arange(parameter.numel()) % 97).float().view_as(parameter) / 64 - 0.5
        return layers, getattr(bitsandbytes.optim, name)(layers.parameters(), lr=0.01, **options)

    return make


adam8bit = eight_bits("AdamW8bit", weight_decay=0.0)
ademamix8bit = eight_bits("AdEMAMix8bit", weight_decay=0.0)
rmsprop8bit = eight_bits("RMSprop8bit")


def train(optimizer, steps):
    for t in steps:
        for group in optimizer.param_groups:
            for parameter in (parameter for parameter in group["params"] if parameter.requires_grad):
                i = torch.arange(parameter.numel()).view_as(parameter)
                parameter.grad = (((7 * i + 3 * t) % 11 - 5) / 8).to(parameter.dtype)
        optimizer.step()


names = ["partial", "wrapped", "mixed", "adam8bit", "ademamix8bit", "rmsprop8bit"]
if len(sys.argv) == 3 and sys.argv[1] not in names:
    path, name = sys.argv[1:]
    layers, optimizer = globals()[name]()
    missing, unexpected = torch_optimizer.load(layers, optimizer, path)
    train(optimizer, range(5, 8))
    # It fails if there is a state of a parameter that is not the optimizer's.
    optimizer.state_dict()
    after, worst = load_file(HERE / f"{name}.8.safetensors"), 0.0
    with tempfile.TemporaryDirectory() as folder:
        torch_optimizer.save(layers, optimizer, f"{folder}/again")
        again = load_file(f"{folder}/again")
    assert again.keys() == after.keys(), again.keys() ^ after.keys()
    for key in after:
        assert again[key].dtype == after[key].dtype, key
        worst = max(worst, (again[key].double() - after[key].double()).abs().max().item())
    print(name, "only the model has", missing, "only the file has", unexpected, "differs by", worst)
else:
    for name in sys.argv[1:] or names:
        layers, optimizer = globals()[name]()
        for steps in [range(0, 5), range(5, 8)]:
            train(optimizer, steps)
            torch_optimizer.save(layers, optimizer, HERE / f"{name}.{steps.stop}.safetensors")
        if name == "mixed":
            wide = {key: x.float() for key, x in load_file(HERE / "mixed.5.safetensors").items()}
            save_file(wide, HERE / "mixed.wide.safetensors")
