"""Every bound on a size, a number or a time, with its unit in the name."""

KIB = 1024
MIB = 1024 * KIB
HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS

# Memory (address space) that a decoder must be able to get when it starts. Some libraries abort where there is none.
LEAST_MEMORY_BYTES = 24 * MIB
RESERVED_MEMORY_BYTES = 4 * MIB  # of it for the message of a failure
ENOUGH_MEMORY_BYTES = 128 * MIB  # that a message recommends: for the program, any payload and a second thread

# The payload from containerd. Its text, parsed values and decoded keys are in memory at the same time. With these
# bounds the program needs at most 64 MiB of memory for any payload (a test measures it).
PAYLOAD_BYTES = 8 * MIB
PAYLOAD_SECONDS = 30.0
PARAMETER_ENTRIES = 4096
JSON_VALUES = 2**16
JSON_WIDE_BYTES = 1 * MIB

# Descriptors from a registry.
ANNOTATION_BYTES = 4 * MIB
WRAPPED_KEYS = 256
JWE_BYTES = 256 * KIB
JWE_RECIPIENTS = 64
JWE_KEY_ID_CHARACTERS = 200
PRIVATE_OPTIONS_BYTES = 64 * KIB

# containerd's content store, where a descriptor is looked up when no payload came.
STORE_WINDOW_BYTES = 4 * KIB
STORE_SECONDS = 2.0
STORE_MANIFESTS = 4096
STORE_LAYERS = 4096
STORE_DESCRIPTORS = 4096  # of one layer; local keys are tried on each
STORE_CANDIDATES = 64  # descriptors of one layer that wait for keyproviders and tokens
STORE_CANDIDATE_BYTES = 64 * KIB  # annotations of one that waits; only the first may have more
STORE_BATCH = 256
CONTAINERD_ANCESTORS = 3  # a wrapper script may be between containerd and this process
MANIFEST_BYTES = 4 * MIB
COMMAND_LINE_BYTES = 64 * KIB
CONFIGURATION_BYTES = 1 * MIB

# Key files on the node, and the time and work that opening a layer may take.
KEY_FILE_BYTES = 1 * MIB
KEYS_DIRECTORY_FILES = 4096
KEYS_DIRECTORY_BYTES = 64 * MIB
KEYS_DIRECTORY_DEPTH = 16
KEY_NUMBER_BYTES = 2 * KIB  # one number of a key: RSA of at most 16384 bits
RSA_PRIMES = 5  # of one key
PKCS12_KEYS = 64
PKCS12_ENCRYPTED_CONTENTS = 4  # that are decrypted in search of keys
KDF_ITERATIONS = 10_000_000  # of PBKDF2, about 5 seconds
KDF_BYTES = 64 * MIB  # of scrypt, twice what OpenSSL allows
UNWRAP_SECONDS = 60.0  # for one layer, over all of its descriptors, wrapped keys and keys, without keyproviders
UNWRAP_EXTRA_SECONDS = 10.0  # with keyproviders: beyond the longest time limit of a configured one
UNWRAP_LEAST_SECONDS = 5.0  # that a call may take even while other candidates wait
UNWRAP_ATTEMPTS = 16384  # operations with a private key, for one layer; one with RSA takes about 1 ms
UNWRAP_FIRST_ATTEMPTS = 256  # for one descriptor, before other descriptors get their turn
UNPROVEN_KEYS = 4  # candidates for one layer's key that only its HMAC can tell apart

# The cipher (AES-256-CTR + HMAC-SHA256).
SYMMETRIC_KEY_BYTES = 32
NONCE_BYTES = 16
HMAC_BYTES = 32

# The stream. The reference holds 10 KiB back until the HMAC has been checked, and so does this program: plaintext that
# ends early tells containerd that the layer is damaged.
TAIL_BYTES = 10 * KIB
BUFFER_BYTES = 256 * KIB  # a ring of RING_BUFFERS fits into the second-level cache of a core
SMALL_PIPE_BUFFER_BYTES = 64 * KIB
LARGE_BUFFER_BYTES = 1 * MIB
LARGE_AFTER_BYTES = 16 * MIB
RING_BUFFERS = 4
THREAD_AFTER_BYTES = 4 * MIB
PIPE_BYTES = 1 * MIB
READ_BYTES = 64 * KIB  # from a socket or pipe at a time; a TLS record has at most 16 KiB

# After a failure, standard output stays open until containerd has collected the exit status.
HOLD_SECONDS = 2.0  # at most
HOLD_POLL_SECONDS = 0.005  # between checks
HOLD_AFTER_SECONDS = 0.1  # after the status was collected, so that containerd can act on it

# Messages.
QUOTED_CHARACTERS = 200  # of untrusted text
REPORTED_ATTEMPTS = 64
REPORTED_FILES = 8  # in the keys directory, of those with a warning, for each layer that is decrypted nevertheless
LISTED_NAMES = 8  # of recipients, keys or codes in a line
PROGRESS_SECONDS = 0.5  # between two reports about a blob
ERROR_CAUSES = 32  # of an exception
TRACE_FRAMES = 50  # of each exception, counted from the place where it was raised
STANDARD_ERROR_BYTES = 16 * KIB  # one message, for any failure
JOURNAL_BYTES = 4 * KIB
JOURNAL_MESSAGES = 100  # of all decoders of one user within JOURNAL_WINDOW_SECONDS
JOURNAL_WINDOW_SECONDS = 60
WAITING_SECONDS = 5.0  # a longer wait for a key service is noted in the journal
IMAGE_NAME_SECONDS = 1.0  # for the search for the name of a failed layer's image
IMAGE_NAME_BYTES = 256 * KIB  # of one manifest or index
IMAGE_NAME_TOTAL_BYTES = 16 * MIB

# OpenPGP.
PGP_BYTES = 256 * KIB
PGP_RECIPIENTS = 64
PGP_PACKETS = 16384
PGP_RSA_BYTES = 2 * KIB
PGP_NESTING = 4
PGP_KEYRING_BYTES = 32 * MIB
PGP_KEYRING_PACKETS = 1 << 18
GPG_SECONDS = 30.0

# PKCS#11. A module that hangs is ended after PKCS11_SECONDS; a blob has the length of its RSA key's modulus.
# The time that PyYAML takes grows with the square of the depth of brackets.
PKCS11_BYTES = 256 * KIB
PKCS11_RECIPIENTS = 64
PKCS11_BLOB_BYTES = 2 * KIB
PKCS11_YAML_BYTES = 16 * KIB
PKCS11_YAML_BRACKETS = 256
PKCS11_PIN_BYTES = 256
PKCS11_OBJECTS = 16
PKCS11_REPLY_BYTES = 64 * KIB
PKCS11_SECONDS = 20.0
PKCS11_REAP_SECONDS = 1.0  # for the child of a module to end, once it has answered
PKCS11_POLL_SECONDS = 0.01

# PKCS#7.
CMS_BYTES = 256 * KIB
CMS_RECIPIENTS = 64
CERTIFICATE_BYTES = 64 * KIB
RECIPIENT_RSA_BITS = 2048  # the least to encrypt to; private keys of any size open layers
WEAK_RSA_BITS = 1024  # the least with --allow-weak-keys
RECIPIENT_KEYS = 64  # in one file
BER_ELEMENTS = 4096  # in one SEQUENCE, SET or string, or within one of indefinite length
OID_BYTES = 32  # of an object identifier that a message names
BER_DEPTH = 16  # nested elements of indefinite length

# Unix sockets: the longest path (unix(7)), and how long a server waits for another one that starts beside it.
UNIX_PATH_BYTES = 107
SOCKET_LOCK_SECONDS = 5.0
SOCKET_LOCK_POLL_SECONDS = 0.01

# Keyproviders.
PROVIDER_MESSAGE_BYTES = 1 * MIB
PROVIDER_SECONDS = 30.0
OPENED_KEKS = 256
KEK_SECONDS = 60.0  # how long an opened key-encryption key is reused: about the duration of a pull
KEK_BYTES = 64  # of a kept key-encryption key, which has 42
KEK_POLL_SECONDS = 0.005  # while another process opens the same key
HASH_PROBES = 16  # of entries in the memory of all server processes where one may be
PROVIDER_OWN_SHARE = 5 / 6  # of a provider's time; then our own provider gives up, because its error says more
PROVIDER_ERROR_BYTES = 2 * KIB

# Cloud key services. They get less time than PROVIDER_SECONDS, so that users see their error and not ours.
PROVIDER_WRAPPED_BYTES = 128 * KIB
CLOUD_KMS_SECONDS = 25.0
CLOUD_KMS_CONNECT_SECONDS = 5.0
CLOUD_KMS_READ_SECONDS = 10.0
HTTP_CONNECT_SECONDS = 10.0
AZURE_TOKEN_LEAST_SECONDS = 300  # a token is not used again if it expires sooner
GCP_KMS_PLAINTEXT_BYTES = 64 * KIB
AWS_KMS_PLAINTEXT_BYTES = 4 * KIB
PROVIDER_FILE_BYTES = 1 * MIB

# Keyproviders, the client. A provider's own `timeout` may be longer than PROVIDER_SECONDS, up to this.
PROVIDER_TIMEOUT_SECONDS = 600.0
PROVIDER_ANNOTATION_BYTES = 256 * KIB
PROVIDER_DRAIN_SECONDS = 1.0  # for output of processes that a command left running
PROVIDER_REAP_SECONDS = 5.0
PROVIDER_FIRST_PAUSE_SECONDS = 0.25  # the bound of the first random pause before another attempt; each one doubles it
PROVIDER_LONGEST_PAUSE_SECONDS = 4.0
RETRY_LEAST_SECONDS = 0.2  # that must remain for one more attempt
REPLACED_FILES_PAUSES_SECONDS = (0.1, 0.4)  # before TLS files are read again that were replaced meanwhile
PROVIDER_RETRIES = 2  # if the server ends a connection right after the TLS handshake
PROVIDER_PROBE_SECONDS = 3.0
SLOW_KEYPROVIDER_SECONDS = 2.0  # for an image, a keyprovider that takes longer to fail is not asked again
DOCTOR_SECONDS = 10.0  # for a program that only prints information
DOCTOR_LAYER_SECONDS = 1800.0  # for decrypting a layer as a test
CONFIGURATION_WARNINGS = 16

# The keyprovider server. A client's deadline may be shorter. Calls beyond a bound are told that the server is busy.
PROVIDER_REQUEST_SECONDS = 30.0
# Connections and calls are per process. A connection has PROVIDER_SERVER_STREAMS calls at a time; others wait.
PROVIDER_SERVER_PROCESSES = 8  # by default; --processes may ask for up to 64
PROVIDER_SERVER_MAX_PROCESSES = 64
PROVIDER_SERVER_CONNECTIONS = 1000
PROVIDER_SERVER_STREAMS = 128
PROVIDER_SERVER_CALLS = 8192
PROVIDER_SERVER_WAITING = 512  # calls that wait for a thread or a key service
PROVIDER_SERVER_BYTES = 64 * MIB  # of the requests that are being answered
PROVIDER_SERVER_THREADS = 32
PROVIDER_SERVER_OWN_THREADS = 16  # of gRPC's library and the health check
PROVIDER_SERVER_HANDSHAKE_SECONDS = 10.0
PROVIDER_SERVER_IDLE_SECONDS = 300.0
PROVIDER_SERVER_AGE_SECONDS = 3600.0  # of a connection; then the client connects again, perhaps to another server
CERTIFICATE_WARNING_SECONDS = 24 * 3600.0  # before the server's certificate expires
CERTIFICATE_REMINDER_SECONDS = 3600.0  # between warnings
PROVIDER_SERVER_START_SECONDS = 60.0
PROVIDER_SERVER_RESPAWN_SECONDS = 1.0
PROVIDER_SERVER_POLL_SECONDS = 0.1
PROVIDER_SERVER_AGAIN_SECONDS = 0.01  # before a connection to the gRPC server is tried again
PROVIDER_SERVER_GRACE_SECONDS = 25.0
PROVIDER_SERVER_BUFFER_BYTES = 64 * KIB  # per connection and direction
# How long a client may take to read the end of a connection, or to send its first call to a server that is ending.
PROVIDER_SERVER_LEAVE_SECONDS = 2.0
PROVIDER_SERVER_BACKLOG = 4096  # connections that wait to be accepted; the kernel may have a lower bound
PROVIDER_SERVER_ACCEPTS = 64  # connections that are accepted at a time
PROVIDER_SERVER_SHORTAGE_SECONDS = 1.0  # before the next attempt to accept connections without free descriptors
PROVIDER_SERVER_SHORTAGE_LINE_SECONDS = 60.0  # between warnings of that
PROVIDER_SERVER_FILES = 256  # open files besides the three of each connection
AUDITED_CAUSE_CHARACTERS = 500
CLIENT_POLICY_BYTES = 1 * MIB
CLIENT_RULES = 1024
CLIENT_BURST = 1_000_000
CLIENT_RATES = 65_536  # clients whose requests are counted at a time
CLIENT_NAMES = 64  # in a client's certificate
AUDITED_HANDSHAKES = 20  # refused handshakes per second that the audit log describes; it counts the others
PROVIDER_SERVER_BEAT_SECONDS = 1.0  # how often a process reports that it is alive
PROVIDER_SERVER_STUCK_SECONDS = 30.0  # without such a report a process counts as stuck
PROVIDER_SERVER_CHECK_SECONDS = 10.0  # how often a process checks its key service, and how long that may take
PROVIDER_SERVER_SATURATED = 0.9  # the share of a bound from which the server is not ready
STATUS_REQUEST_BYTES = 8 * KIB  # /metrics, /healthz, /readyz
STATUS_CONNECTIONS = 32
STATUS_SECONDS = 10.0

# Images: manifests, and local files. A layer may have any size, and is never in memory as a whole.
IMAGE_MANIFESTS = 1024
IMAGE_MANIFESTS_BYTES = 16 * MIB  # of all manifests and configurations together
IMAGE_JSON_VALUES = 8 * JSON_VALUES  # in all of them together
IMAGE_LAYERS = 4096
IMAGE_INDEX_DEPTH = 8
IMAGE_CONFIG_BYTES = 4 * MIB
LAYOUT_INDEX_BYTES = 4 * MIB
ARCHIVE_ENTRIES = 65536
ARCHIVE_HEADER_BYTES = 64 * KIB  # one extended header
ARCHIVE_LINKS = 8
PASSWORD_BYTES = 4 * KIB
IMAGE_BUFFER_BYTES = 1 * MIB
# What temporary files leave free: the smaller one of these.
TEMPORARY_RESERVE_BYTES = 1024 * MIB
TEMPORARY_RESERVE_SHARE = 0.05  # of the file system

# Images in a registry. The times are for one request; REGISTRY_LEAST_RATE, in bytes per second, bounds slow transfers.
REGISTRY_CONNECT_SECONDS = 10.0
REGISTRY_IDLE_SECONDS = 60.0
REGISTRY_IDLE_CONNECTIONS = 64  # per host; more than there are threads
REGISTRY_LEAST_RATE = 4 * KIB
REGISTRY_COMMIT_SECONDS = 600.0  # a registry may read all of a blob before it answers
REGISTRY_ATTEMPTS = 5
REGISTRY_RETRY_SECONDS = 0.5  # doubled before each further attempt
REGISTRY_RETRY_AFTER_SECONDS = 30.0
REGISTRY_REDIRECTS = 5
REGISTRY_ERROR_BYTES = 16 * KIB
REGISTRY_TOKEN_BYTES = 256 * KIB
REGISTRY_TOKEN_SECONDS = 60.0  # how long a token is valid if the registry does not say so
REGISTRY_REFERENCE_CHARACTERS = 512
REGISTRY_TAGS = 65536
DOCKER_SECONDS = 300.0  # a daemon may compute for a while before it sends an image
STORAGE_SECONDS = 3600.0  # for a program that copies an image
DOCKER_CONFIG_BYTES = 1 * MIB
CREDENTIAL_HELPER_SECONDS = 30.0
CREDENTIAL_HELPER_BYTES = 64 * KIB

# Images in containerd's store. containerd's own limit on messages is 16 MiB. A lease expires if this program is killed.
CONTAINERD_SECONDS = 60.0
CONTAINERD_POLL_SECONDS = 0.1
CONTAINERD_NAME_CHARACTERS = 4096
CONTAINERD_MESSAGE_BYTES = 16 * MIB
CONTAINERD_WRITE_BYTES = 1 * MIB
CONTAINERD_WRITES_AHEAD = 4
CONTAINERD_LEASE_SECONDS = 24 * 3600.0

# Grants: artifacts in a registry, which is not trusted. A sealed key or grant lists every unencrypted layer.
GRANTS_ARTIFACT_BYTES = JWE_BYTES
GRANTS_STATEMENT_BYTES = 170 * KIB  # signed, before it is encrypted
GRANTS_REQUEST_BYTES = 32 * KIB
GRANTS_CERTIFICATES = 4  # in a request: the leaf and its issuers
GRANTS_CERTIFICATE_BYTES = 4 * KIB  # of each
GRANTS_TEXT_CHARACTERS = 512
GRANTS_LAYERS = 900
GRANTS_OWNERS = 16
GRANTS_LISTED = 1000  # artifacts that one command reads at most
GRANTS_CLOCK_SECONDS = 300  # by which clocks may differ
GRANTS_DAYS = 30  # how long a grant is valid by default
GRANTS_MOST_DAYS = 3650
GRANTS_PER_HOUR = 60  # approvals by rules, by default
GRANTS_INTERVAL_SECONDS = 15
GRANTS_LONGEST_INTERVAL_SECONDS = HOUR_SECONDS
GRANTS_DECIDED_SECONDS = 600.0  # until a request that was decided is checked again
GRANTS_WAITING_SECONDS = 60.0  # until one that waits is
GRANTS_FRESH_SECONDS = HOUR_SECONDS  # a request that is newer is not pushed again
GRANTS_REMEMBERED_IMAGES = 256
GRANTS_WAIT_SECONDS = 450.0  # the longest that a node waits for a grant
GRANTS_POLL_SECONDS = 2.0  # the first pause of a node that waits; each one doubles it
GRANTS_LONGEST_POLL_SECONDS = 15.0

# Confidential Containers: packets, and the sources of their keys. A first attestation takes long, because it fetches
# collateral from elsewhere; the whole provider gets COCO_PROVIDER_SECONDS.
COCO_KID_CHARACTERS = 1024
COCO_RESOURCE_BYTES = 4 * KIB  # a key has 32; larger ones are not read to their end
COCO_SOURCE_SECONDS = 8.0
COCO_ATTESTATION_SECONDS = 60.0
COCO_PROVIDER_SECONDS = 90.0
COCO_SOURCES = 16
DENY_RULES = 256

# Confidential Containers: answers of agents in the guest.
TTRPC_MESSAGE_BYTES = 4 * MIB  # the maximum of the framing
AGENT_TOKEN_BYTES = 64 * KIB

# Confidential Containers: key brokers.
KBS_ADMIN_TOKEN_SECONDS = 300  # how long the token is valid that is created to register one key

# The resident agent. A client's request holds its command line and environment. AGENT_SPARE_WORKERS wait for layers;
# AGENT_WORKERS is how many layers are decrypted at a time: further clients decrypt without it.
AGENT_REQUEST_BYTES = 128 * KIB
AGENT_REQUEST_SECONDS = 5.0  # a client that a busy machine holds up for longer decrypts by itself
AGENT_KEEPER_REQUEST_SECONDS = 1.0  # between a worker and the keeper
AGENT_BACKLOG = 4096
AGENT_IDLE_SECONDS = 300.0
AGENT_STOP_SECONDS = 10.0  # for `agent stop`
AGENT_STOP_POLL_SECONDS = 0.01
AGENT_SPARE_WORKERS = 2
AGENT_REST_SECONDS = 10.0
AGENT_WORKERS = 128
AGENT_CHECK_SECONDS = 5.0  # how often the agent checks whether its socket and its program are still there
AGENT_SETTINGS_BYTES = 4 * KIB
AGENT_REASONS = 16
AGENT_CERTIFICATES = 16  # whose expiry is in the metrics
AGENT_STATUS_SECONDS = 5.0
AGENT_STATUS_BYTES = 16 * KIB
AGENT_REFILL_SECONDS = 0.02
AGENT_RETURN_SECONDS = 0.005  # how long clients wait for a worker to come back if there is one for each processor
AGENT_LAYERS_OF_A_WORKER = 16
AGENT_NEXT_LAYER_SECONDS = 0.25  # how long a worker waits for another layer
AGENT_THREAD_POLLS = 100  # of a thread that should have ended
AGENT_THREAD_POLL_SECONDS = 0.001
AGENT_RESPAWN_SECONDS = 1.0  # before the next fork, after a worker ended without a client
AGENT_KEEPERS = 4
AGENT_KEEPER_SECONDS = 60.0  # how long a provider, or a connection to one, is reused after it was created
AGENT_KEEPER_BYTES = 2 * MIB
AGENT_SWEEP_SECONDS = 1.0
AGENT_NOTICE_BYTES = 32 * KIB
AGENT_PARSED_KEYS = 256
AGENT_OPENED_SECONDS = 3600.0  # the longest that a key-encryption key can be kept
