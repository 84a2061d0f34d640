"""Writes NAME.f32.safetensors and NAME.f64.safetensors beside it: what PyTorch 2.15 has after 10 of the 20 steps of the
golden trajectory torch_NAME: python tests/torch/golden.py NAME …
"""

import gzip
import json
import pathlib
import sys

import torch
from torch import nn

HERE = pathlib.Path(__file__).parent
sys.path.append(str(HERE.parent.parent / "examples"))
import torch_optimizer

golden = json.load(gzip.open(HERE.parent / "golden.json.gz"))
inputs = golden["inputs_pub.json"]

for name in sys.argv[1:]:
    case = golden[f"torch_{name}.f64.json"]
    for dtype, suffix in [(torch.float32, "f32"), (torch.float64, "f64")]:
        # Counts are of the default type.
        torch.set_default_dtype(dtype)
        tensor = lambda numbers, shape: torch.tensor(numbers, dtype=dtype).reshape(shape)
        model = nn.Module()
        for k, (start, shape) in enumerate(zip(inputs["params0"], case["shapes"])):
            model.register_parameter(f"p{k}", nn.Parameter(tensor(start, shape)))
        optimizer = getattr(torch.optim, case["optimizer"])(model.parameters(), foreach=False, **case["hyper"])
        for gradients in inputs["grads"][:10]:
            for parameter, gradient in zip(model.parameters(), gradients):
                parameter.grad = tensor(gradient, parameter.shape)
            optimizer.step()
        torch_optimizer.save(model, optimizer, HERE / f"{name}.{suffix}.safetensors")
