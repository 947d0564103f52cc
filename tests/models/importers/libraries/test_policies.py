"""Policies of stable-baselines3 and rsl_rl, against their own deterministic answers."""

import copy
from typing import Any

import numpy as np
import pytest

from forwardpass.models import Input, forward
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.file.export import proven
from forwardpass.models.importers.policies import from_policy

torch = pytest.importorskip("torch")
sb3 = pytest.importorskip("stable_baselines3")
pytest.importorskip("rsl_rl")

from gymnasium import spaces  # noqa: E402
from models.importers.libraries.environments import an_environment  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

# Of torch and of gymnasium's own.
pytestmark = pytest.mark.filterwarnings("ignore")

X = (3 * np.random.default_rng(0).standard_normal((300, 5))).astype(np.float32)


def of(kind, actions=None, observations=None, **options):
    model = kind(
        "MlpPolicy", an_environment(actions, observations), seed=0, device="cpu", **options
    )
    for parameter in model.policy.parameters():
        # Orthogonal weights of 0.01 would leave every action near zero.
        torch.nn.init.normal_(parameter, std=0.2)
    return model


CONTINUOUS: dict[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (sb3.PPO, {}),
    "PPO, squashed": (sb3.PPO, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "PPO, net": (sb3.PPO, {"policy_kwargs": {"net_arch": [8], "activation_fn": torch.nn.ELU}}),
    "A2C": (sb3.A2C, {}),
    "SAC": (sb3.SAC, {}),
    "SAC, gSDE": (sb3.SAC, {"use_sde": True}),
    "TD3": (sb3.TD3, {}),
    "DDPG": (sb3.DDPG, {}),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_an_action_is_that_of_predict_in_its_range(name) -> None:
    kind, options = CONTINUOUS[name]
    model = of(kind, **options)

    network = from_policy(model, name="pilot")

    (output,) = network.outputs
    assert (network.input.name, output.name, network.name) == ("observation", "action", "pilot")
    expected, _ = model.predict(X, deterministic=True)
    assert np.ptp(expected, axis=0).min() > 0.5
    np.testing.assert_allclose(forward(network, X)["action"], expected, atol=2e-5)
    proven(network)
    assert from_policy(model.policy) == from_policy(model)


def test_probabilities_choose_as_predict_does() -> None:
    model = of(sb3.PPO, spaces.Discrete(3))
    network = from_policy(model, labels=("left", "stay", "right"))
    got = forward(network, X)["probabilities"]
    expected, _ = model.predict(X, deterministic=True)
    assert set(expected) == {0, 1, 2}
    np.testing.assert_array_equal(got.argmax(axis=1), expected)
    np.testing.assert_allclose(got.sum(axis=1), 1)
    assert network.outputs[0].labels == ("left", "stay", "right")
    assert {layer.name for layer in network.layers} == {
        "mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"
    }  # fmt: skip


def test_the_values_of_actions_are_those_of_dqn() -> None:
    model = of(sb3.DQN, spaces.Discrete(4), buffer_size=10)
    got = forward(from_policy(model), X)["q"]
    with torch.no_grad():
        expected = copy.deepcopy(model.q_net.q_net).double()(torch.from_numpy(X).double()).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_array_equal(got.argmax(1), model.predict(X, deterministic=True)[0])


def test_several_choices_are_several_outputs() -> None:
    model = of(sb3.PPO, spaces.MultiDiscrete([2, 3]))
    got = forward(from_policy(model), X)
    expected, _ = model.predict(X, deterministic=True)
    assert list(got) == ["probabilities.0", "probabilities.1"]
    for column, each in enumerate(got.values()):
        np.testing.assert_array_equal(each.argmax(axis=1), expected[:, column])


def test_binary_actions_are_those_above_a_half() -> None:
    model = of(sb3.PPO, spaces.MultiBinary(3))
    got = forward(from_policy(model), X)["probabilities"]
    np.testing.assert_array_equal(got > 0.5, model.predict(X, deterministic=True)[0] == 1)


@pytest.mark.parametrize("clip_obs", [0.7, 10.0, np.inf])
@pytest.mark.parametrize("kind", [sb3.PPO, sb3.SAC])
def test_a_vec_normalize_is_the_scaling_of_raw_observations(kind, clip_obs) -> None:
    environment = VecNormalize(DummyVecEnv([an_environment]), clip_obs=clip_obs)
    environment.obs_rms.mean = np.linspace(-1, 1, 5)
    environment.obs_rms.var = np.geomspace(0.1, 10, 5)
    model = kind("MlpPolicy", environment, seed=0, device="cpu")
    for parameter in model.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.2)

    network = from_policy(model)

    expected, _ = model.predict(environment.normalize_obs(X), deterministic=True)
    np.testing.assert_allclose(forward(network, X)["action"], expected, atol=1e-4)
    assert network == from_policy(model.policy, normalize=environment)
    assert network != from_policy(model.policy)


def bounded(low, high):
    actions = spaces.Box(np.float32(low), np.float32(high))
    return sb3.ppo.MlpPolicy(an_environment().observation_space, actions, lambda _: 0.0)


def test_actions_without_bounds_are_not_clipped() -> None:
    policy = bounded([-np.inf] * 2, [np.inf] * 2)
    network = from_policy(policy)
    assert network.sizes == (5, 64, 64, 2)
    expected, _ = policy.predict(10 * X, deterministic=True)
    np.testing.assert_allclose(forward(network, 10 * X)["action"], expected, atol=1e-5)


def test_observations_of_several_axes_are_sent_flat() -> None:
    model = of(sb3.PPO, observations=spaces.Box(-np.inf, np.inf, (2, 3), np.float32))
    x = X[:240].reshape(-1, 6)
    expected, _ = model.predict(x.reshape(-1, 2, 3), deterministic=True)
    np.testing.assert_allclose(forward(from_policy(model), x)["action"], expected, atol=1e-5)


class Untidy(sb3.ppo.MlpPolicy):
    def _predict(self, observation, deterministic=False):
        return -super()._predict(observation, deterministic)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: of(sb3.PPO, observations=spaces.Discrete(4)),
            r"policy \(ActorCriticPolicy\): observations Discrete\(4\)",
        ),
        (
            lambda: sb3.PPO("MultiInputPolicy", an_environment(observations=spaces.Dict(
                a=spaces.Box(-1, 1, (2,))))),
            r"policy \(MultiInputActorCriticPolicy\): observations Dict",
        ),
        (
            lambda: of(sb3.PPO, policy_kwargs={"activation_fn": torch.nn.Softshrink}),
            "of module 'mlp_extractor.policy_net.1' .Softshrink.*no part of a Network",
        ),
        (lambda: sb3.PPO(Untidy, an_environment()), "column 0, probe row . .*own prediction"),
        (lambda: torch.nn.Linear(2, 2), r"policy \(Linear\): of no library that is known"),
        (lambda: "ppo.zip", r"file 'ppo.zip': a path where a model was expected; .*PPO.load"),
        (
            lambda: bounded([-1, -np.inf], [1, np.inf]),
            r"range of actions of policy .*: bounds of -inf..-1 to 1..inf",
        ),
    ],
)  # fmt: skip
def test_what_a_network_cannot_represent_is_refused_by_name(make, message) -> None:
    with pytest.raises(UnsupportedSourceError, match=message):
        from_policy(make())


def test_an_input_has_the_size_of_an_observation() -> None:
    model = of(sb3.PPO)
    named = Input(5, "sensors", features=list("abcde"))
    assert from_policy(model, input=named, output="torque").outputs[0].name == "torque"
    with pytest.raises(NetworkError, match="expected size 5, that of an observation, got 4"):
        from_policy(model, input=Input(4))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("distribution", [None, "GaussianDistribution"])
def test_the_actor_of_rsl_rl_becomes_a_network_with_its_answers(normalized, distribution) -> None:
    from rsl_rl.models import MLPModel

    torch.manual_seed(0)
    cfg = distribution and {"class_name": f"rsl_rl.modules.distribution:{distribution}"}
    groups = {"policy": torch.zeros(1, 3), "history": torch.zeros(1, 2)}
    model = MLPModel(
        groups, {"actor": ["policy", "history"]}, "actor", 2, (8, 8), "elu", normalized, cfg
    )
    if normalized:
        model.obs_normalizer._mean.normal_()
        model.obs_normalizer._std.uniform_(0.1, 3)

    network = from_policy(model)

    x = torch.from_numpy(X)
    with torch.no_grad():
        expected = model.eval()({"policy": x[:, :3], "history": x[:, 3:]}).numpy()
    np.testing.assert_allclose(forward(network, X)["action"], expected, atol=1e-5)
    assert [layer.name for layer in network.layers] == ["mlp.0", "mlp.2", "mlp.4"]
    assert (network.input.mean is not None) == normalized
    proven(network)
