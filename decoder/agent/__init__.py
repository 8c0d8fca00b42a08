"""The resident agent: processes that have everything imported and wait for the next layer.

`zygote` forks them ahead, and holds nothing of any layer but `parsedkeys` of key files; a `worker` decrypts one layer
by the code of the program itself, and ends; a `keeper` holds what keyproviders need long to make. packaging/client is
what hands layers over.
"""
