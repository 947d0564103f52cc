"""An environment of gymnasium that takes any actions, to make policies with."""

import numpy as np


def an_environment(actions=None, observations=None):
    import gymnasium
    from gymnasium import spaces

    class Environment(gymnasium.Env):
        observation_space = observations or spaces.Box(-np.inf, np.inf, (5,), np.float32)
        action_space = actions or spaces.Box(
            np.array([-1, -2], np.float32), np.array([1, 3], np.float32)
        )

        def reset(self, seed=None, **_):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, _):
            return self.observation_space.sample(), 0.0, False, False, {}

    return Environment()
