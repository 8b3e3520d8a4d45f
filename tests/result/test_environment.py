import json

import torch

from dist_condense.result.environment import environment


def test_the_environment_can_be_written():
    stored = json.loads(json.dumps(environment()))
    assert stored["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert stored["cpus"] >= 1
    assert {"python", "os", "cpu", "devices", "commit"} <= set(stored)
