"""One generation among several processes: who generates, and how the others get the answer.

The store's lease elects a leader per exact key. The leader renews it while it generates and releases it when the answer
is stored; whoever did not get it waits for the answer or for the lease to lapse, and then tries to become the leader
itself. A leader that dies stops renewing, so nobody waits longer than the lease lasts.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from vllm_enhance.errors import StoreError
from vllm_enhance.stores import Store

__all__ = ["Lease", "new_owner", "wait_for_value"]

LEASE_SECONDS = 3.0
FIRST_POLL = 0.01
LONGEST_POLL = 0.1


def new_owner() -> bytes:
    """A name for one holder: 16 random bytes in hex."""
    return secrets.token_hex(16).encode()


@dataclass(slots=True, eq=False)
class Lease:
    """A lease that is held, and renewed in the background until :meth:`release`.

    Make one with :meth:`acquire`.
    """

    store: Store
    key: bytes
    owner: bytes
    seconds: float
    _renewer: asyncio.Task[None] | None = None
    lost: bool = False

    @classmethod
    async def acquire(cls, store: Store, key: bytes, *, seconds: float = LEASE_SECONDS) -> Lease | None:
        """Become the leader for ``key``, or ``None`` while another is.

        Raises:
            StoreError: the store failed; generate without a lease then.
        """
        owner = new_owner()
        if not await store.lease(key, owner, seconds):
            return None
        lease = cls(store, key, owner, seconds)
        lease._renewer = asyncio.create_task(lease._renew(), name="enhance-lease")
        return lease

    async def release(self) -> None:
        """Let others lead. Never raises: a lease that cannot be given back lapses."""
        renewer, self._renewer = self._renewer, None
        if renewer is not None:
            renewer.cancel()
            await asyncio.gather(renewer, return_exceptions=True)
        try:
            async with asyncio.timeout(self.seconds):
                await self.store.release(self.key, self.owner)
        except (StoreError, TimeoutError, OSError):
            self.lost = True

    async def _renew(self) -> None:
        while not self.lost:
            await asyncio.sleep(self.seconds / 3)
            try:
                self.lost = not await self.store.renew(self.key, self.owner, self.seconds)
            except (StoreError, OSError):
                continue  # it may come back before the lease lapses


async def wait_for_value(
    store: Store, key: bytes, timeout: float, *, monotonic: Callable[[], float] = time.monotonic
) -> bytes | None:
    """Wait while somebody else generates ``key``.

    Looks first every 10 ms, then less and less often, down to every 100 ms.

    Args:
        timeout: seconds.

    Returns:
        the stored value, still to be opened and checked; ``None`` when the lease ended without one (the leader failed,
        died, or may not store), or the time is up. The caller then tries to lead.

    Raises:
        StoreError: the store failed.
    """
    deadline, pause = monotonic() + timeout, FIRST_POLL
    while True:
        held = await store.leased(key)
        value = await store.get(key)  # in this order: a leader stores before it releases
        if value is not None or not held:
            return value
        if monotonic() + pause > deadline:
            return None
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, LONGEST_POLL)
