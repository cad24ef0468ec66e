"""What a trial gets of the machine or the cluster."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a trial needs and how many run at once."""

    cpus: float = 1.0
    gpus: float = 0.0
    max_concurrent: int = 1  # 0: what the cluster has room for when a run starts
    address: str | None = None

    def bundle(self) -> dict[str, float]:
        """For Ray."""
        return {"cpu": self.cpus, "gpu": self.gpus} if self.gpus else {"cpu": self.cpus}
