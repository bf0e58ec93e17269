"""Speaks to a connection by boto3 as a handler does, and looks at the classes of its errors: management.py ENDPOINT ID"""

import os
import sys

import boto3

endpoint, connection = sys.argv[1:]
client = boto3.client("apigatewaymanagementapi", endpoint_url=endpoint)
errors = client.exceptions


def refused(error, call, **arguments):
    try:
        call(**arguments)
    except error as refusal:
        return refusal.response["ResponseMetadata"]["HTTPStatusCode"]
    raise SystemExit(f"expected {error}")


client.post_to_connection(ConnectionId=connection, Data="h\u00e9llo from boto3")
client.post_to_connection(ConnectionId=connection, Data=b"\xff\x00")
found = client.get_connection(ConnectionId=connection)
assert found["Identity"]["SourceIp"] == "127.0.0.1", found
assert found["ConnectedAt"] <= found["LastActiveAt"], found
# An id as they are at AWS: it ends with what has to be encoded in a path.
gone = "L0SM9cOFvHcCIhw="
assert refused(errors.GoneException, client.get_connection, ConnectionId=gone) == 410
assert refused(errors.GoneException, client.delete_connection, ConnectionId=gone) == 410
assert refused(errors.GoneException, client.post_to_connection, ConnectionId=gone, Data="x") == 410
large = b"x" * ((1 << 20) + 1)
assert refused(errors.PayloadTooLargeException, client.post_to_connection, ConnectionId=connection, Data=large) == 413
keys = {"aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": "another"}
stranger = boto3.client("apigatewaymanagementapi", endpoint_url=endpoint, **keys)
assert refused(errors.ForbiddenException, stranger.get_connection, ConnectionId=connection) == 403
client.delete_connection(ConnectionId=connection)
