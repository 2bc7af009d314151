"""What an adapter file is, how large its updates are, and who can load it."""

import hashlib
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.family import family_of
from loricate.adapters.files import AdapterFile
from loricate.adapters.formats.diffusers import COMPONENTS
from loricate.adapters.keys import BASE_DIGEST, HASH_KEY
from loricate.adapters.kinds import kind_of
from loricate.adapters.loaders import Acceptance, acceptances
from loricate.adapters.names import canonical
from loricate.adapters.tensors import TensorFile
from loricate.basics.arrays import dtype_name
from loricate.basics.errors import ConfigError, NumericalError
from loricate.lowrank.gram import norms
from loricate.recipes._sources import open_source

__all__ = ["ComponentSummary", "Inspection", "ModuleSummary", "Spread", "inspect"]

_FAMILIES = {
    "sd1": "SD 1.x",
    "sd2": "SD 2.x",
    "sdxl": "SDXL",
    "refiner": "SDXL refiner",
}
# Width of the attention of a transformer.
_WIDTHS = {1536: "SD 3", 2432: "SD 3", 3072: "Flux"}

_TRANSFORMER = ("transformer_blocks.", "single_transformer_blocks.")
_UNKNOWN = "model"

_HIGHLIGHTS = (
    "modelspec.title",
    "modelspec.architecture",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "ss_training_comment",
    BASE_DIGEST,
    *(f"{BASE_DIGEST}.{component}" for component in COMPONENTS),
    "extracted_by_rule",
    "resized_by_rule",
    "combined_from",
    HASH_KEY,
)
_CHUNK = 1 << 20
# More of them wait for Python's lock more than they work.
_WORKERS = 2


@final
@dataclass(frozen=True, kw_only=True)
class ModuleSummary:
    """One update.

    Args:
        component: Part of the pipeline, such as ``unet``.
        module: Dotted path inside the component.
        kind: What the module does, such as ``cross-attention``.
        layer: ``linear`` or ``conv``.
        shape: Shape of the weight.
        rank: Rank of the factors.
        dtype: Dtype of the factors.
        scale: Factor in front of the product.
        n_parameters: Number of entries of both factors.
        frobenius_norm: Norm of the update, scale included.
        spectral_norm: Its largest singular value.
    """

    component: str
    module: str
    kind: str
    layer: str
    shape: tuple[int, ...]
    rank: int
    dtype: str
    scale: float
    n_parameters: int
    frobenius_norm: float
    spectral_norm: float


@final
@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a number differs between modules.

    Args:
        least: Smallest value.
        median: Median.
        greatest: Largest value.
    """

    least: float
    median: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Spread of at least one number."""
        return cls(least=min(values), median=statistics.median(values), greatest=max(values))


@final
@dataclass(frozen=True, kw_only=True)
class ComponentSummary:
    """All updates of one component.

    Args:
        component: Part of the pipeline.
        n_modules: Number of modules.
        n_parameters: Number of entries of all factors.
        kinds: Number of modules of each kind.
        layers: Number of linear layers and of convolutions.
        dtypes: Dtypes of the factors.
        ranks: Ranks.
        scales: Factors in front of the products.
        total_norm: Frobenius norm of all updates together.
        frobenius_norms: Frobenius norms.
        spectral_norms: Largest singular values.
    """

    component: str
    n_modules: int
    n_parameters: int
    kinds: Mapping[str, int]
    layers: Mapping[str, int]
    dtypes: tuple[str, ...]
    ranks: Spread
    scales: Spread
    total_norm: float
    frobenius_norms: Spread
    spectral_norms: Spread

    @classmethod
    def of(cls, component: str, modules: Sequence[ModuleSummary]) -> "ComponentSummary":
        """Summary of at least one module of a component."""
        return cls(
            component=component,
            n_modules=len(modules),
            n_parameters=sum(each.n_parameters for each in modules),
            kinds=dict(Counter(each.kind for each in modules).most_common()),
            layers=dict(Counter(each.layer for each in modules).most_common()),
            dtypes=tuple(sorted({each.dtype for each in modules})),
            ranks=Spread.of([each.rank for each in modules]),
            scales=Spread.of([each.scale for each in modules]),
            total_norm=math.hypot(*(each.frobenius_norm for each in modules)),
            frobenius_norms=Spread.of([each.frobenius_norm for each in modules]),
            spectral_norms=Spread.of([each.spectral_norm for each in modules]),
        )


@final
@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a path turned out to be.

    Args:
        path: File or folder.
        form: ``peft``, ``diffusers``, ``diffusers-model``, ``kohya`` or ``comfy``.
        family: Family of models it is for; ``None`` if its names and widths fit several or none.
        scale_source: Where the scale is stated: ``tensor``, ``config``, ``header`` or ``absent``.
        size_bytes: Size of the file with the tensors.
        notes: Oddities, in words.
        metadata: What the header says about itself; anybody can write anything there.
        hash_holds: Whether the hash in the header is that of the tensors; ``None`` without one.
        components: Summary of each component.
        modules: Every update.
        loaders: What programs will do with it.
    """

    path: Path
    form: str
    family: str | None
    scale_source: str
    size_bytes: int
    notes: tuple[str, ...]
    metadata: Mapping[str, str]
    hash_holds: bool | None
    components: tuple[ComponentSummary, ...]
    modules: tuple[ModuleSummary, ...]
    loaders: tuple[Acceptance, ...]


def inspect(
    path: Path,
    *,
    component: str | None = None,
    base: Path | None = None,
    observer: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Inspection:
    """Look into an adapter file; nothing in it is run or trusted.

    Norms come from Gram matrices of the factors in float64, to a relative error of 1e-8.

    Args:
        path: File or folder in any form.
        component: Component of a file that does not say it, by default guessed from names, or the
            only one to look at.
        base: Model whose modules resolve names, and whose weights the updates have to fit.
        observer: Called with (stage, done, total) after every module.

    Raises:
        NumericalError: A norm is beyond the numbers of float64.
        IntegrityError: The adapter names another base.
        LoricateError: What ``open_adapter`` refuses.
    """
    modules = []
    # Arrays and hashes are worked on without Python's lock.
    with ThreadPoolExecutor(_WORKERS) as pool:
        hashed = pool.submit(_hashed, path)
        found = _open(path, component, base)
        for module in pool.map(_summary, found.adapter, found.adapter.values()):
            modules.append(module)
            observer("inspect", len(modules), len(found.adapter))
    file, hash_holds = hashed.result()
    return Inspection(
        path=path,
        form=found.form,
        family=_family(found.adapter),
        scale_source=found.scale_source,
        size_bytes=file.path.stat().st_size,
        notes=found.notes,
        metadata={key: file.metadata[key] for key in _HIGHLIGHTS if key in file.metadata},
        hash_holds=hash_holds,
        components=tuple(
            ComponentSummary.of(part, [each for each in modules if each.component == part])
            for part in found.adapter.components
        ),
        modules=tuple(modules),
        loaders=acceptances(found, file),
    )


def _open(path: Path, component: str | None, base: Path | None) -> AdapterFile:
    try:
        return open_source(path, component=component, base=base)
    except ConfigError as error:
        is_unstated = any(each.key == "component" and each.got is None for each in error.problems)
        if component is not None or not is_unstated:
            raise
    found = open_source(path, component=_UNKNOWN, base=None)
    guess = _component_of([target.module for target in found.adapter])
    if guess is not None or base is not None:
        found = open_source(path, component=guess or _UNKNOWN, base=base)
    how = "not even its names do" if guess is None else f"{guess!r} is a guess from its names"
    return replace(found, notes=(*found.notes, f"the file does not say its component; {how}"))


def _component_of(modules: Iterable[str]) -> str | None:
    """The first component that has all modules in some family."""
    names = list(modules)
    if all(name.startswith(_TRANSFORMER) for name in names):
        return "transformer"
    for component, family in itertools.product(sgm.COMPONENTS, sgm.FAMILIES):
        known = sgm.modules(component, family)
        if all(canonical(component, name) in known for name in names):
            return component
    return None


def _family(adapter: Adapter) -> str | None:
    widths = {
        update.weight_shape[1]
        for module, update in adapter.modules("transformer").items()
        if module.endswith(".attn.to_q")
    }
    if "transformer" in adapter.components:
        return _WIDTHS.get(widths.pop()) if len(widths) == 1 else None
    family = family_of(adapter)
    return family and _FAMILIES[family]


def _summary(target: Target, update: Update) -> ModuleSummary:
    factors = update.factors
    frobenius, spectral = norms(factors)
    if not math.isfinite(frobenius):
        what = f"the norm of the update overflows at scale {factors.scale:.3g}"
        raise NumericalError(what, where=str(target))
    return ModuleSummary(
        component=target.component,
        module=target.module,
        kind=kind_of(target.module),
        layer=update.kind,
        shape=update.weight_shape,
        rank=update.rank,
        dtype=dtype_name(factors.A),
        scale=factors.scale,
        n_parameters=update.n_parameters,
        frobenius_norm=frobenius,
        spectral_norm=spectral,
    )


def _hashed(path: Path) -> tuple[TensorFile, bool | None]:
    """The file, and whether the hash in its header is that of the tensors."""
    file = TensorFile(next(path.glob("*.safetensors")) if path.is_dir() else path)
    stated = file.metadata.get(HASH_KEY)
    if stated is None:
        return file, None
    hashed = hashlib.sha256()
    with file.path.open("rb") as opened:
        opened.seek(min((info.start for info in file.infos.values()), default=0))
        while chunk := opened.read(_CHUNK):
            hashed.update(chunk)
    return file, hashed.hexdigest() == stated
