"""Policies of SBX, which are JAX, against their own deterministic answers."""

import numpy as np
import pytest

from forwardpass.models import forward
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.file.export import proven
from forwardpass.models.importers.policies import from_policy

sbx = pytest.importorskip("sbx")

import jax  # noqa: E402
from gymnasium import spaces  # noqa: E402
from models.importers.libraries.environments import an_environment  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

# Of JAX, Flax and TensorFlow Probability.
pytestmark = pytest.mark.filterwarnings("ignore")

X = (3 * np.random.default_rng(0).standard_normal((300, 5))).astype(np.float32)
SMALL = {"net_arch": [16, 16]}


def drawn(state):
    """The state with parameters that training may leave behind."""
    rng = np.random.default_rng(0)
    return state.replace(
        params=jax.tree_util.tree_map(
            lambda each: jax.numpy.float32(0.4 * rng.standard_normal(each.shape)), state.params
        )
    )


def of(kind, actions=None, **options):
    model = kind("MlpPolicy", an_environment(actions), seed=0, policy_kwargs=SMALL | options)
    for name in ("actor_state", "qf_state"):
        if getattr(model.policy, name, None) is not None:
            setattr(model.policy, name, drawn(getattr(model.policy, name)))
    return model


@pytest.mark.parametrize("kind", ["PPO", "SAC", "TQC", "TD3", "DDPG"])
def test_an_action_is_that_of_predict_in_its_range(kind) -> None:
    model = of(getattr(sbx, kind))
    network = from_policy(model)
    assert {layer.name for layer in network.layers} >= {"Dense_0", "Dense_1"}
    assert "Dense_3" not in {layer.name for layer in network.layers}
    expected, _ = model.predict(X, deterministic=True)
    assert np.ptp(expected, axis=0).min() > 0.5
    np.testing.assert_allclose(forward(network, X)["action"], expected, atol=2e-5)
    proven(network)


@pytest.mark.parametrize(("kind", "output"), [("PPO", "probabilities"), ("DQN", "q")])
def test_the_largest_value_is_the_action_of_predict(kind, output) -> None:
    model = of(getattr(sbx, kind), spaces.Discrete(3))
    got = forward(from_policy(model), X)[output]
    expected, _ = model.predict(X, deterministic=True)
    assert set(expected) == {0, 1, 2}
    np.testing.assert_array_equal(got.argmax(axis=1), expected)


def test_a_vec_normalize_is_the_scaling_of_raw_observations() -> None:
    environment = VecNormalize(DummyVecEnv([an_environment]), clip_obs=2.0)
    environment.obs_rms.mean = np.linspace(-1, 1, 5)
    model = of(sbx.PPO)
    expected, _ = model.predict(environment.normalize_obs(X), deterministic=True)
    network = from_policy(model, normalize=environment)
    np.testing.assert_allclose(forward(network, X)["action"], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: of(sbx.CrossQ), r"policy \(CrossQPolicy\): parameters BatchRenorm_0"),
        (lambda: of(sbx.PPO, spaces.MultiDiscrete([2, 3])), r"actions MultiDiscrete"),
        (lambda: of(sbx.SAC, activation_fn=jax.numpy.sin), "activation 'sin'"),
    ],
)
def test_what_a_network_cannot_represent_is_refused_by_name(make, message) -> None:
    with pytest.raises(UnsupportedSourceError, match=message):
        from_policy(make())
