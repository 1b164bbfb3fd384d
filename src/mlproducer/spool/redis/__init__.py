"""The spool on a Redis server: one that several producers share. Needs the extra `mlproducer[redis]`."""

from mlproducer.spool.redis.spool import RedisSpool

__all__ = ["RedisSpool"]
