"""The contract of workers, which send heartbeats so that other workers see that they are alive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping


class Workers(ABC):
    """The heartbeats of workers, of all processors. Its calls keep the promises of `Checkpoints`."""

    @abstractmethod
    async def heartbeat(self, worker: str) -> None:
        """Count a heartbeat of this worker."""

    @abstractmethod
    async def beats(self) -> Mapping[str, int]:
        """Return the number of heartbeats of each worker."""

    @abstractmethod
    async def sign_off(self, worker: str) -> None:
        """Remove a worker."""
