"""Talks to the function of tests/tests/held, whose WebSockets the host holds: `held.py URL deflate|plain`.

Ends with an error when something is not as it should be.
"""

import asyncio
import sys

import websockets

MEBIBYTE = 1 << 20


def connect(url: str, **options):
    return websockets.connect(url, max_size=None, **options)


async def hears(socket, message: str | bytes) -> None:
    data = await asyncio.wait_for(socket.recv(), 30)
    assert data == message, (len(message), len(data))


async def closed(socket) -> tuple[int, str]:
    try:
        while True:
            data = await asyncio.wait_for(socket.recv(), 30)
            raise AssertionError(f"{len(data)} bytes came, and no Close")
    except websockets.ConnectionClosed:
        return socket.close_code, socket.close_reason


async def messages(socket) -> None:
    for message in ["hello", b"\x00\xff\n", "\u00e4\u20ac\U0001f426", "x" * MEBIBYTE, b"y" * MEBIBYTE]:
        await socket.send(message)
        await hears(socket, message)
    # In pieces, as this library sends what it iterates over.
    await socket.send(["one, ", "two, ", "three"])
    await hears(socket, "one, two, three")
    await socket.send([b"\x01", b"", b"\x02"])
    await hears(socket, b"\x01\x02")
    await asyncio.wait_for(await socket.ping(b"there?"), 30)


async def main(url: str, compression: str) -> None:
    # What is agreed upon.
    socket = await connect(url, subprotocols=["chat.v2", "chat.v1"])
    assert socket.subprotocol == "chat.v1", socket.subprotocol
    agreed = socket.response.headers.get("Sec-WebSocket-Extensions", "")
    assert ("permessage-deflate" in agreed) == (compression == "deflate"), agreed
    plain = await connect(url, compression=None)
    assert plain.subprotocol is None
    assert "Sec-WebSocket-Extensions" not in plain.response.headers

    # Messages of any kind, up to the longest that there may be, come back.
    for client in [socket, plain]:
        await messages(client)

    # What one says to the room, the others hear, and it does not.
    await socket.send("room for all")
    await hears(plain, "room for all")
    await socket.send("still here")
    await hears(socket, "still here")

    # Closes: the client's, the function's, and the host's, when a message is too long.
    await plain.close(code=4001, reason="bye")
    assert plain.close_code == 4001, plain.close_code
    await socket.send("close 4002 enough")
    assert await closed(socket) == (4002, "enough")
    for offered in ["deflate", None]:
        async with connect(url, compression=offered) as socket:
            await socket.send("x" * (MEBIBYTE + 1))
            code, _ = await closed(socket)
            assert code == 1009, code


asyncio.run(main(*sys.argv[1:]))
