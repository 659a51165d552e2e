import os
from collections.abc import Iterator

import pytest
import torch
from helpers.second_device import second_device

from llm_agents.models import pretrained, tiny
from llm_agents.runtime.devices import find_device

os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(1)


@pytest.fixture(params=["second", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Where language models go that are not told to stay on the CPU: a GPU, or what stands in for one."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("torch sees no CUDA GPU")
        yield find_device("cuda")
        return
    generator = torch.Generator
    with second_device() as device:
        for module in (tiny, pretrained):
            monkeypatch.setattr(module, "find_device", lambda name: find_device(name) if name == "cpu" else device)
        monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
        yield device
