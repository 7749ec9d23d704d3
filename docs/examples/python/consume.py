"""Prints events from the stream EVENTS, with the published schema alone.

    pip install -r requirements.txt
    python -m grpc_tools.protoc -I ../../../packages/contracts/proto --python_out=. tidegate/v1/events.proto
    python consume.py nats://127.0.0.1:7422
"""

import asyncio
import sys
from datetime import datetime, timedelta, timezone

import nats
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from tidegate.v1.events_pb2 import EventBatch


async def main(url: str) -> None:
    connection = await nats.connect(url, max_reconnect_attempts=-1)
    # The last 15 minutes of programs started, then what follows.
    since = datetime.now(timezone.utc) - timedelta(minutes=15)
    subscription = await connection.jetstream().pull_subscribe(
        "tidegate.events.exec.>",
        stream="EVENTS",
        config=ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=since.isoformat().replace("+00:00", "Z"),
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60,
        ),
    )
    while True:
        try:
            messages = await subscription.fetch(batch=100, timeout=5)
        except NatsTimeoutError:
            continue
        for message in messages:
            print_batch(EventBatch.FromString(message.data))


def print_batch(batch: EventBatch) -> None:
    """One message holds one or more events; processes, containers and pods stand in its tables once."""
    processes = {process.id: process for process in batch.processes}
    containers = {container.id: container for container in batch.containers}
    pods = {pod.uid: pod for pod in batch.pods}
    for event in batch.events:
        process = processes.get(event.process)
        if process is None or event.WhichOneof("detail") != "exec":
            continue
        parent = processes.get(process.parent)
        container = containers.get(process.container)
        pod = pods.get(container.pod_uid) if container else None
        place = f"{pod.namespace}/{pod.name}" if pod else batch.node
        seconds = (batch.wall_offset_ns + event.ktime_ns) / 1e9
        time = datetime.fromtimestamp(seconds, timezone.utc).strftime("%H:%M:%S.%f")[:-3]
        # repr: arguments may hold anything, also what a terminal would act on.
        print(f"{time} exec {place} {parent.binary if parent else '?'} → {list(process.arguments)!r} (pid {process.pid})", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "nats://127.0.0.1:7422"))
    except KeyboardInterrupt:
        pass
