#!/bin/sh
# A message of one is said to all. Whatever is no message asks only how the function is.
[ "$Http_Method" = POST ] || exit 0
exec busybox wget -qO /dev/null --header "Authorization: Bearer $ROOST_CONNECTIONS_TOKEN" --post-data "$(cat)" \
  "$ROOST_CONNECTIONS_URL/connections?function=$OPENFAAS_NAME"
