"""PyTorch's optimizer state in a file for wgpu_optim's Optimizer::load_torch, and back from Optimizer::save_torch."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save(model, optimizer, path):
    """Writes parameters, states and hyperparameters, by the parameters' names."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {name: parameter.detach().contiguous() for parameter, name in names.items()}
    groups = []
    for group in optimizer.param_groups:
        groups.append({key: float(x) if torch.is_tensor(x) else x for key, x in group.items()})
        groups[-1]["params"] = [names[parameter] for parameter in group["params"]]
        for parameter in group["params"]:
            for slot, x in optimizer.state.get(parameter, {}).items():
                if x is not None:
                    tensors[f"{names[parameter]}.{slot}"] = torch.as_tensor(x).contiguous()
    save_file(tensors, path, {"torch": json.dumps({"optimizer": type(optimizer).__name__, "param_groups": groups})})


@torch.no_grad()
def load(model, optimizer, path):
    """Sets parameters, states and hyperparameters from the file."""
    with safe_open(path, "pt") as file:
        for group, saved in zip(optimizer.param_groups, json.loads(file.metadata()["torch"])["param_groups"], strict=True):
            group.update({key: x for key, x in saved.items() if key != "params"})
        for name, parameter in model.named_parameters():
            parameter.copy_(file.get_tensor(name).view_as(parameter))
            slots = {key.removeprefix(f"{name}."): file.get_tensor(key) for key in file.keys() if key.rpartition(".")[0] == name}
            # Counts stay where they are, on the host.
            place = lambda x: x if x.dim() == 0 else x.view_as(parameter).to(parameter.device)
            optimizer.state[parameter] = {slot: place(x) for slot, x in slots.items()}
