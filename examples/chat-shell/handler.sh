#!/bin/sh
printf 'X-Ws-Join: chat\nX-Ws-Broadcast: group=chat\n\n'
[ "$Http_Ce_Eventname" != message ] || cat
