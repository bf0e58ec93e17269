#!/bin/sh
# Answers one call as the handler of a Lambda function does, and prints where it was called, and with which event.
IFS= read -r request
length=0
while IFS= read -r header && [ "${#header}" -gt 1 ]; do
  case $header in [Cc]ontent-[Ll]ength:*) length=$(echo "${header#*:}" | busybox tr -d ' \r') ;; esac
done
event=$(busybox head -c "$length")

# In one write: others print too.
[ "$length" = 0 ] || echo "${request% *} $event" >&2

answer() {
  printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' \
    "$1" "${#2}" "$2"
}

case $event in
  *'"queryStringParameters":{"door":"shut"}'*) answer '200 OK' '{"statusCode":403,"body":"the door is shut"}' ;;
  *'"queryStringParameters":{"door":"broken"}'*) answer '200 OK' '{"errorMessage":"no door","errorType":"Error"}' ;;
  *throw*) answer '200 OK' '{"errorMessage":"thrown","errorType":"Error"}' ;;
  *status*) answer '200 OK' '{"statusCode":500,"body":"not well"}' ;;
  *crash*) answer '502 Bad Gateway' 'crashed' ;;
  *) answer '200 OK' "{\"statusCode\":200,\"body\":\"$NAME heard it\"}" ;;
esac
