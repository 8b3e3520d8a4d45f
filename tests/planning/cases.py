"""Work and rates with numbers for which estimates can be computed by hand."""

from dist_condense.planning.cluster import Cluster
from dist_condense.planning.rates import Calibration, Matching, Peak, Updating
from dist_condense.planning.workload import Workload

LOAD = Workload(
    classes=10,
    networks=5,
    steps=20,
    shared_steps=0,
    groups=0,
    real=64,
    synthetic=16,
    updates={},
    segments=0,
    real_updates=True,
    image=100,
    pixels=1200,
    decoded=0,
    parameters=1000,
    statistic=900,
    counts=(50,) * 10,
    microbatch=0,
    slices=4,
    coupled=False,
)
RATES = Calibration(
    device="a device",
    kind="cpu",
    compared={},
    alone=Matching(step=1.0, each=2.0, real=0.25, synthetic=0.5),
    shared=Matching(step=2.0, each=4.0, real=0.25, synthetic=1.0),
    updating=Updating(update=1.0, slice=2.0, batch=0.5, own=0.25),
    draw=3.0,
    real=Peak(base=1000, image=10),
    synthetic=Peak(base=500, image=100),
    training=Peak(base=2000, image=20),
)
CLUSTER = Cluster(device="cpu", exact=True, bandwidth=1000.0, latency=0.5)
