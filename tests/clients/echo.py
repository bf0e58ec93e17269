"""Talks to an echoing WebSocket; ends with an error when something does not come back."""

import asyncio
import sys

import websockets


async def main(url: str) -> None:
    messages = ["hello", "", b"\x00\xff\n", "\u00e4\u20ac\U0001f426", "x" * 300_000, b"y" * 1_000_000]
    # With compression offered, as is this library's default, and without.
    for compression in ["deflate", None]:
        async with websockets.connect(url, compression=compression, max_size=None) as socket:
            for message in messages:
                await socket.send(message)
                back = await asyncio.wait_for(socket.recv(), 30)
                assert back == message, (len(message), len(back))
            await asyncio.wait_for(await socket.ping(b"there?"), 30)
            await socket.close(code=4001, reason="bye")
            assert socket.close_code == 4001, socket.close_code


asyncio.run(main(sys.argv[1]))
