"""A Ray cluster of two nodes on this machine, in a process of its own.

    python -m tests.end_to_end.cluster_host

prints HOST:PORT of a head with one CPU, and the process number of the raylet of a second node with
one CPU. `remove` on stdin takes the second node away at once, the end of stdin ends the cluster.
"""

import sys

import ray
from ray.cluster_utils import Cluster


def main() -> None:
    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        second = cluster.add_node(**small)
        cluster.wait_for_nodes()
        print(cluster.address, second.all_processes["raylet"][0].process.pid, flush=True)
        for line in sys.stdin:
            if line.strip() == "remove":
                cluster.remove_node(second, allow_graceful=False)
                print("removed", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
