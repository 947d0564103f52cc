"""The importers against libraries that need an environment each, beside those of test_importers.

Of several in one, some would hold back the others.
"""

from collections.abc import Callable
from pathlib import Path

from conformance.environments import ROOT
from conformance.importing import CATEGORIES, JAX, POLICIES, SBX, check


def test_lookups_of_keras_become_inputs_of_categories(environment: Callable[..., Path]) -> None:
    # They run on TensorFlow whatever the backend; other backends hand no texts to a model.
    python = environment("tensorflow-cpu==2.21.*", "keras==3.15.*", "-e", f"{ROOT}[dev]")
    check(python, CATEGORIES, backend="tensorflow")


def test_jax_networks_become_networks_with_their_answers(
    environment: Callable[..., Path],
) -> None:
    check(
        environment("jax2onnx==0.17.1", "flax", "equinox", "dm-haiku==0.0.*", "-e", f"{ROOT}[dev]"),
        JAX,
    )


def test_policies_become_networks_with_their_actions(environment: Callable[..., Path]) -> None:
    python = environment(
        "torch==2.13.*", "stable-baselines3==2.9.*", "rsl-rl-lib==5.5.*", "-e", f"{ROOT}[dev]"
    )
    check(python, "-k", "importers", POLICIES, ROOT / "tests" / "docs" / "test_examples.py")
    check(environment("torch==2.13.*", "sbx-rl==0.28.*", "-e", f"{ROOT}[dev]"), SBX)
