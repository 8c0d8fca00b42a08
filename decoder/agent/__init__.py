"""The resident agent: processes that have everything imported and wait for the next layer.

In `processes`, the `zygote` forks workers ahead, and holds nothing of any layer except `parsedkeys` of key files. A
`worker` decrypts one layer with the code of the program itself, and ends. A `keeper` queries keyproviders and caches
what is slow to create. The client in packaging/client hands layers over.
"""
