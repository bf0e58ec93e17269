"""A Lambda function as it is at AWS: nothing in it knows of Roost."""


def handler(event, context):
    request = event.get("requestContext")
    if request is None:
        # An invocation: the event is what the caller has sent.
        name = event.get("name", "world")
        if name == "nobody":
            raise ValueError("there is nobody to greet")
        return {"message": f"Hello, {name}!", "requestId": context.aws_request_id}
    # An event of a WebSocket API.
    print(request["routeKey"], request["connectionId"])
    return {"statusCode": 200, "body": event.get("body") or ""}
