"""Does what its event says."""

import os
import time


def handler(event, context):
    if "sleep" in event:
        print("sleeping", flush=True)
        time.sleep(event["sleep"])
    if "exit" in event:
        os._exit(event["exit"])
    if "big" in event:
        return "x" * event["big"]
    return {
        "remaining": context.get_remaining_time_in_millis(),
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        "process": os.getpid(),
        "started": os.stat("/proc/1").st_ctime_ns,
        **{name: os.environ.get(name) for name in event.get("env", [])},
    }
