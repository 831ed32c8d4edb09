"""What can be searched: the distinct texts and images (or sounds) of a data set. Each is embedded once, and found by
inner product (faiss)."""

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging

from .data.collator import MultimodalCollator
from .data.rows import Rows
from .embedding import embed
from .models.checksums import can_check, checksum_of, checksum_of_bytes
from .models.retrieval_mm_fusion import MMFusionForRetrieval


logger = logging.get_logger(__name__)
# The vectors are written to a file with a new name each time. `gallery.json` names this file, and is replaced in one
# step. Older galleries have their vectors in `embeddings.safetensors`.
FILE, EMBEDDINGS = "gallery.json", "embeddings.safetensors"
LENGTH = 0.02  # how far the length of a vector may be from 1: in 16 bits it is rounded


@dataclass
class Gallery:
    """The distinct texts and images (or sounds) of a data set, ready for search.

    Args:
        embeddings: per modality, texts first, `(U, E)` float32 of length 1.
        places: per modality, for each item the first row that contains it.
        keys: per modality, the key that identifies each item, see `MultimodalCollator.item_key`.
        pairs: for each row with both, the place of its text and the place of its other item, `(N, 2)` int64.
        factory: the kind of faiss index: `"Flat"` is exact; others, such as `"HNSW32"`, are faster for millions of
            items.
        model: the `fingerprint` of the model that made the embeddings; None for older galleries.
        source: further values to save with the gallery, for JSON: which rows it was built from.
    """

    embeddings: dict[str, torch.Tensor]
    places: dict[str, list[int]]
    keys: dict[str, list[str]]
    pairs: torch.Tensor
    factory: str = "Flat"
    model: str | None = None
    source: dict[str, Any] | None = None

    def __post_init__(self):
        self._indexes: dict[str, Any] = {}

    @classmethod
    def build(
        cls,
        model: MMFusionForRetrieval,
        collator: MultimodalCollator,
        rows: Rows,
        factory: str = "Flat",
        batch_size: int = 128,
        progress: bool = True,
    ) -> "Gallery":
        """Embeds every distinct text and image (or sound) of some rows.

        Args:
            model: is in eval mode afterwards.
            collator: prepares the items; its settings say whether a bad item raises or is left out.
            rows: rows as `mm_hf.data` makes them.
            factory: see the class.

        Raises:
            BadRowError: an item that cannot be read.
        """
        searched = (model.query_modality, model.item_modality)
        distinct: dict[str, dict[str, int]] = {modality: {} for modality in searched}  # per key, the first row
        paired: list[list[str]] = []  # keys
        for start in range(0, len(rows), 1000):
            for row in rows.__getitems__(list(range(start, min(start + 1000, len(rows))))):
                keys = [collator.item_keys(row, modality, [])[0] for modality in searched]
                for items, key in zip(distinct.values(), keys):
                    if key is not None:
                        items.setdefault(key, row["row_id"])
                known = [key for key in keys if key is not None]
                paired += [known] if len(known) == len(keys) else []
        embeddings: dict[str, torch.Tensor] = {}
        for modality, items in distinct.items():
            unreadable: dict[int, str] | None = {} if collator.on_error == "skip" else None
            vectors = embed(model, collator, modality, rows, list(items.values()), batch_size, progress, unreadable)
            for place, reason in (unreadable or {}).items():
                logger.warning(f"Left out: the {modality} of row {place}: {reason}")
            distinct[modality] = {key: place for key, place in items.items() if place not in (unreadable or {})}
            embeddings |= {modality: vectors} if len(vectors) else {}
        texts, others = ({key: place for place, key in enumerate(items)} for items in distinct.values())
        pairs = [(texts[text], others[other]) for text, other in paired if text in texts and other in others]
        return cls(
            embeddings,
            {modality: list(items.values()) for modality, items in distinct.items()},
            {modality: list(items) for modality, items in distinct.items()},
            torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
            factory,
            fingerprint(model),
        )

    def search(self, queries: torch.Tensor, modality: str, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best items of a modality, for each query.

        Args:
            queries: `(Q, E)` float, of length 1, see `MMFusionForRetrieval.get_features`.
            k: the number of items; at most as many as the gallery has.

        Returns:
            `(Q, k)` similarities, best first, and `(Q, k)` places of the items.
        """
        if modality not in self.embeddings:
            raise ValueError(f"This gallery holds {sorted(self.embeddings)}, but no {modality!r}.")
        index = self._indexes.get(modality)
        if index is None:
            index = self._indexes[modality] = make_index(self.embeddings[modality], self.factory)
        scores, places = index.search(queries.float().cpu().contiguous().numpy(), min(k, index.ntotal))
        return torch.from_numpy(scores), torch.from_numpy(places)

    def relevant(self) -> torch.Tensor:
        """Which text and which other item occur in the same row, `(U_text, U_item)` bool."""
        paired = torch.zeros(*map(len, self.keys.values()), dtype=torch.bool)
        paired[self.pairs[:, 0], self.pairs[:, 1]] = True
        return paired

    def save(self, folder: str | Path):
        """Writes embeddings (safetensors) and the rest (JSON). If it stops halfway, the old gallery is still whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vectors = folder / f"embeddings-{uuid.uuid4().hex[:12]}.safetensors"
        save_file({**self.embeddings, "pairs": self.pairs}, vectors)
        sums = {"embeddings": checksum_of(vectors)} if can_check() else {}
        rest = {
            "places": self.places,
            "keys": self.keys,
            "factory": self.factory,
            "model": self.model,
            "source": self.source,
            "embeddings": vectors.name,
            "xxh3_64": sums,
        }
        if can_check():
            sums["rest"] = checksum_of_text(rest)
        beside = folder / f".{FILE}.{os.getpid()}"
        beside.write_text(json.dumps(rest), encoding="utf-8")
        os.replace(beside, folder / FILE)
        for old in [*folder.glob("embeddings-*.safetensors"), folder / EMBEDDINGS, folder / "source.json"]:
            if old != vectors:
                old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path, model: MMFusionForRetrieval | None = None) -> "Gallery":
        """Reads what `save` wrote.

        Args:
            model: the model that will search; if it did not make the gallery, it is refused.

        Raises:
            FileNotFoundError: the folder holds no gallery.
            ValueError: the gallery is damaged, or another model made it.
        """
        folder = Path(folder)
        if not (folder / FILE).exists():
            raise FileNotFoundError(f"{folder} holds no gallery: it has no file {FILE}.")
        anew = "Build the gallery again."
        try:
            rest = json.loads((folder / FILE).read_text(encoding="utf-8"))
            sums = rest.pop("xxh3_64", {})
            whole = (
                not can_check()
                or "rest" not in sums
                or sums.pop("rest") == checksum_of_text({**rest, "xxh3_64": sums})
            )
            vectors = folder / rest.pop("embeddings", EMBEDDINGS)
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(f"{folder / FILE} is damaged ({type(error).__name__}: {error}). {anew}") from None
        if not whole:
            raise ValueError(f"{folder / FILE} has changed since it was saved: its checksum differs. {anew}")
        if vectors.parent != folder or not vectors.exists():
            raise FileNotFoundError(f"The gallery in {folder} is not complete: {vectors.name} is missing. {anew}")
        if can_check() and sums.get("embeddings") not in (None, checksum_of(vectors)):
            raise ValueError(f"{vectors} has changed since it was saved: its checksum differs. {anew}")
        try:
            tensors = load_file(vectors)
            pairs = tensors.pop("pairs")
            gallery = cls({name: tensors[name] for name in rest["keys"] if name in tensors}, pairs=pairs, **rest)
            gallery.check()
        except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"The gallery in {folder} is damaged: {error}. {anew}") from None
        if not gallery.source and (folder / "source.json").exists():  # older galleries have it in a file of its own
            gallery.source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        if model is not None:
            gallery.check_model(model, folder)
        return gallery

    def check(self):
        """Checks that the parts fit together."""
        if not isinstance(self.keys, dict) or not self.keys or list(self.keys) != list(self.places):
            raise ValueError(f"it has keys of {list(self.keys)}, but places of {list(self.places)}")
        if not isinstance(self.factory, str):
            raise ValueError(f"its factory must be a text, got {self.factory!r}")
        for modality, keys in self.keys.items():
            places, vectors = self.places[modality], self.embeddings.get(modality)
            counts = (len(keys), len(places), 0 if vectors is None else len(vectors))
            if len(set(counts)) > 1 or len(set(keys)) != len(keys):
                raise ValueError(f"{modality}: keys must be distinct, one per place and embedding; got {counts}")
            if not all(isinstance(place, int) and place >= 0 for place in places):
                raise ValueError(f"not all places of {modality} are row numbers")
            if vectors is None:
                continue
            if vectors.ndim != 2 or vectors.dtype is not torch.float32:
                raise ValueError(
                    f"embeddings of {modality} must be 2-D float32, got {tuple(vectors.shape)} {vectors.dtype}"
                )
            lengths = torch.linalg.vector_norm(vectors, dim=-1)
            if not ((lengths - 1).abs() <= LENGTH).all():  # true for NaN too
                raise ValueError(
                    f"embeddings of {modality} must have length 1, got "
                    f"lengths from {lengths.min():.4g} to {lengths.max():.4g}"
                )
        if self.pairs.ndim != 2 or self.pairs.shape[1] != 2 or self.pairs.dtype is not torch.int64:
            raise ValueError(f"its pairs must be (N, 2) int64, got {tuple(self.pairs.shape)} {self.pairs.dtype}")
        sizes = [len(keys) for keys in self.keys.values()]
        outside = len(sizes) != 2 or bool((self.pairs < 0).any() or (self.pairs >= torch.tensor(sizes)).any())
        if len(self.pairs) and outside:
            raise ValueError(f"its pairs name items up to {self.pairs.amax(0).tolist()}, but it has {sizes} items")

    def check_model(self, model: MMFusionForRetrieval, folder: str | Path):
        """Refuses a model that did not make this gallery: its similarities would mean nothing."""
        widths = {vectors.shape[1] for vectors in self.embeddings.values()}
        if widths - {model.config.projection_dim}:
            raise ValueError(
                f"The gallery in {folder} has vectors of length {sorted(widths)}, but the model makes vectors of "
                f"length {model.config.projection_dim}: another model built it. Build it again with this model."
            )
        if self.model is not None and (current := fingerprint(model)) not in (None, self.model):
            raise ValueError(
                f"Another model ({self.model}, not {current}) built the gallery in {folder}. Build the gallery again "
                "with this model, or use the model that built it."
            )


def checksum_of_text(values: Any) -> str:
    """The xxh3 of some values, written as JSON."""
    return checksum_of_bytes(json.dumps(values, sort_keys=True).encode())


@torch.no_grad()
def fingerprint(model: nn.Module) -> str | None:
    """A checksum that identifies the weights of a model, in whatever folder they are; None without xxhash."""
    if not can_check():
        return None
    parts = []
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        parts.append(f"{name} {tuple(tensor.shape)} {checksum_of_bytes(values.numpy())}")
    return checksum_of_bytes("\n".join(parts).encode())


def empty_index(width: int, factory: str) -> Any:
    """An empty faiss index by inner product, for vectors of this width."""
    import faiss

    try:
        return faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1]
        raise ValueError(f"faiss has no index {factory!r}; 'Flat' is the exact one. It says: {reason}") from None


def make_index(embeddings: torch.Tensor, factory: str) -> Any:
    """The index over these vectors, `(N, E)` float32; see `empty_index`."""
    index = empty_index(embeddings.shape[1], factory)
    vectors = embeddings.contiguous().numpy()
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    return index
