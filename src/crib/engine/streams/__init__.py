"""Streams into containers and pods: who may have one (`tickets`), and what then goes between both ends."""
