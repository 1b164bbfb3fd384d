"""From a `Task` to the bytes on the wire: task types, limits, Celery's message protocol 2. Pure.

task ── tasktype (what a type is) ── types (the registry) ── builtin, toml (where types come from)
  └──── limits (what JSON, kombu and AMQP can carry) ── encode (task → `Envelope`, and back for people)
"""
