"""PyTorch's optimizer state in a file for wgpu_optim's Optimizer::load_torch, and back from Optimizer::save_torch.

The optimizer may be one of bitsandbytes: states in 8 bits stay as they are. The way back is then
Optimizer::save_bitsandbytes. The optimizer may step a part of the model. The model may have 16 bits, share parameters, and be wrapped
(DistributedDataParallel, torch.compile).
"""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# How PyTorch runs a step, not what it computes.
EXECUTION = ("foreach", "fused", "capturable", "differentiable")


def save(model, optimizer, path):
    """Writes parameters, states and hyperparameters, by the parameters' names."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {name: parameter.detach().contiguous() for parameter, name in names.items()}
    groups = []
    for group in optimizer.param_groups:
        # A key that is not in the defaults computes nothing: a name, a note, a scheduler's rate.
        groups.append({key: x for key, x in group.items() if key in optimizer.defaults or key == "initial_lr"})
        groups[-1]["params"] = [names[parameter] for parameter in group["params"]]
        for parameter in group["params"]:
            for state, x in optimizer.state.get(parameter, {}).items():
                if x is not None:
                    tensors[f"{names[parameter]}.{state}"] = torch.as_tensor(x).contiguous()
    # A rate may be a tensor.
    note = json.dumps({"optimizer": type(optimizer).__name__, "param_groups": groups}, default=float)
    save_file(tensors, path, {"torch": note})


@torch.no_grad()
def load(model, optimizer, path):
    """Sets parameters, states and hyperparameters from the file.

    Returns the names that only the model has, and those that only the file has.
    """
    with safe_open(path, "pt") as file:
        note = json.loads(file.metadata()["torch"])
        here = type(optimizer).__name__
        both = {name.removeprefix("Paged") for name in (here, note["optimizer"])}
        if len(both) > 1 and both not in ({"Adam", "AdamW"}, {"Adam8bit", "AdamW8bit"}):
            raise ValueError(f"the file is of {note['optimizer']}, not of {here}")
        groups = {name: group for group in note["param_groups"] for name in group["params"]}
        tensors = set(file.keys())
        states = {name: {} for name in groups}
        for key in tensors - groups.keys():
            name, _, state = key.rpartition(".")
            if name in groups:
                states[name][state] = key
        theirs = tensors.union(groups).difference(*(of.values() for of in states.values()))

        names = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            name = name if name in theirs else plain(name)
            if name in theirs and names.setdefault(parameter, name) != name:
                raise ValueError(f"`{name}` and `{names[parameter]}` are one parameter of the model, two of the file")
        for parameter, name in names.items():
            if name in tensors:
                parameter.copy_(file.get_tensor(name).view_as(parameter))

        for group in optimizer.param_groups:
            found = [parameter for parameter in group["params"] if names.get(parameter) in groups]
            saved = groups[names[found[0]]] if found else {}
            if any(groups[names[parameter]] is not saved for parameter in found):
                raise ValueError("parameters of one group here are in several groups of the file")
            for key, x in saved.items():
                if torch.is_tensor(group.get(key)):
                    group[key].fill_(x)
                elif key != "params" and key not in EXECUTION:
                    group[key] = x
            for parameter in found:
                optimizer.state[parameter] = {}
                of = {state: file.get_tensor(key) for state, key in states[names[parameter]].items()}
                if type(optimizer).__module__.startswith("bitsandbytes"):
                    optimizer.state[parameter] = blocks(parameter, of)
                    continue
                for state, x in of.items():
                    if state not in ("step", "mu_product"):
                        x = x.view_as(parameter).to(parameter)
                    elif group.get("capturable") or group.get("fused"):
                        x = x.to(parameter.device)
                    optimizer.state[parameter][state] = x
    missing = [name for name, parameter in model.named_parameters() if parameter not in names]
    return missing, sorted(theirs.difference(names.values()))


def blocks(parameter, states):
    """The states of bitsandbytes; AdEMAMix has its slow average in the second row of the first state."""
    of = {}
    for state, x in states.items():
        if state == "step":
            of[state] = int(x)
        elif not state.endswith("_slow"):
            slow = states.get(f"{state}_slow")
            x = x if slow is None else torch.stack([x, slow])
            lead = () if slow is None else (2,)
            of[state] = (x.view(*lead, *parameter.shape) if state.startswith("state") else x).to(parameter.device)
    return of


def plain(name):
    """A parameter's name without what PyTorch's wrappers add to it."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while parts[:1] == ["module"]:
        parts = parts[1:]
    return ".".join(parts)
