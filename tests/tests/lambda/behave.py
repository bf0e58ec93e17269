"""Does what its event says; what says nothing of that is for the example's handler."""

import os
import time

import app

if "MISSING" in os.environ:
    import missing  # There is none.


def handler(event, context):
    if "sleep" in event:
        print("sleeping", flush=True)
        time.sleep(event["sleep"])
    if "exit" in event:
        os._exit(event["exit"])
    if "big" in event:
        return "x" * event["big"]
    if "env" not in event:
        return app.handler(event, context)
    return {
        "remaining": context.get_remaining_time_in_millis(),
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        **{name: os.environ.get(name) for name in event["env"]},
    }
