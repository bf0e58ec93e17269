#!/bin/sh
read -r name
echo "Hello, ${name:-world}! You asked for $Http_Method $Http_Path on $(uname -m)."
