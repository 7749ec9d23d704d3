"""Prints the id of each event of the feed: listen.py <url> <subject>. Needs nats-py."""
import asyncio
import json
import sys

import nats


async def main(url: str, subject: str) -> None:
    client = await nats.connect(url)
    subscription = await client.subscribe(subject)
    await client.flush()
    print("listening", flush=True)
    async for message in subscription.messages:
        event = json.loads(message.data)
        print(event["id"], event["kind"], message.headers["Tidegate-Event-Id"], flush=True)


asyncio.run(main(*sys.argv[1:]))
