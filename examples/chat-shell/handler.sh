#!/bin/sh
# A message of one is said to all. What the call answers is nothing that anybody has to hear.
said=$(cat)
exec busybox wget -qO /dev/null --header "Authorization: Bearer $ROOST_CONNECTIONS_TOKEN" --post-data "$said" \
  "$ROOST_CONNECTIONS_URL/connections?function=$OPENFAAS_NAME"
