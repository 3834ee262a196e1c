"""Sends calls with a Python SDK that is unchanged but for its host.

argv: the SDK's package, and "gzip" to switch compression on where it is off. Standard input: one JSON
line {host, writeKey, calls}, then one line with an object {calls} for each further round. After each
round the SDK is flushed and "sent" is printed; an error that the SDK reports ends the script with 1.
"""

import datetime
import json
import sys

errors = []


def failed(error, batch):
    errors.append(f"{error}: {len(batch)} messages")


def client(package, options, host, write_key):
    if package == "segment-analytics-python":
        from segment.analytics.client import Client
    elif package == "rudder-sdk-python":
        from rudderstack.analytics.client import Client
    else:
        raise SystemExit(f"no SDK {package}")
    more = {"gzip": True} if "gzip" in options else {}
    return Client(write_key, host=host, on_error=failed, **more)


def call(sdk, given):
    common = {
        "timestamp": datetime.datetime.fromisoformat(given["timestamp"].replace("Z", "+00:00")),
        "message_id": given["messageId"],
    }
    user = given["userId"]
    kind = given["type"]
    if kind == "identify":
        done = sdk.identify(user, given["traits"], **common)
    elif kind == "track":
        done = sdk.track(user, given["event"], given["properties"], **common)
    elif kind == "page":
        done = sdk.page(user, None, given["name"], given["properties"], **common)
    elif kind == "group":
        done = sdk.group(user, given["groupId"], given["traits"], **common)
    elif kind == "alias":
        done = sdk.alias(given["previousId"], user, **common)
    else:
        raise SystemExit(f"no call {kind}")
    if not done[0]:
        raise SystemExit(f"the SDK took no {kind}")


def main():
    sdk = None
    for line in sys.stdin:
        given = json.loads(line)
        if sdk is None:
            sdk = client(sys.argv[1], sys.argv[2:], given["host"], given["writeKey"])
        for one in given["calls"]:
            call(sdk, one)
        sdk.flush()
        if errors:
            raise SystemExit("\n".join(errors))
        print("sent", flush=True)


main()
