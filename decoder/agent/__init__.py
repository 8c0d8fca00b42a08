"""The resident agent: processes that have everything imported and wait for the next layer.

In `processes`, the `zygote` forks workers in advance. The only data of layers that it holds are parsed key files
(`parsedkeys`). A `worker` decrypts layers with the code of the program itself, one at a time, and ends soon. A `keeper`
queries keyproviders and caches what is slow to create. The client in packaging/client hands layers over.
"""
