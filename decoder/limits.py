"""Every size and time that this program bounds, with its unit."""

KIB = 1024
MIB = 1024 * KIB

# What containerd hands over. Text, values and decoded keys are several copies of a payload: with these bounds no
# payload takes more than 64 MiB of memory, the program included (a test measures it).
PAYLOAD_BYTES = 8 * MIB
PAYLOAD_SECONDS = 30.0
PARAMETER_ENTRIES = 4096
JSON_VALUES = 2**16
JSON_WIDE_BYTES = 1 * MIB

# What a registry serves inside a descriptor.
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
STORE_CANDIDATES = 64  # those that wait for keyproviders and tokens
STORE_CANDIDATE_BYTES = 64 * KIB  # annotations of one that waits; only the first may have more
STORE_BATCH = 256
MANIFEST_BYTES = 4 * MIB
COMMAND_LINE_BYTES = 64 * KIB
CONFIGURATION_BYTES = 1 * MIB

# What the operator keeps on the node.
KEY_FILE_BYTES = 1 * MIB
KEYS_DIRECTORY_FILES = 4096
KEYS_DIRECTORY_BYTES = 64 * MIB
KEYS_DIRECTORY_DEPTH = 16
KEY_NUMBER_BYTES = 2 * KIB  # one number of a key: RSA of at most 16384 bits
RSA_PRIMES = 5  # of one key
PKCS12_KEYS = 64
UNWRAP_SECONDS = 60.0  # for one layer, over all of its descriptors, wrapped keys and keys, without keyproviders
UNWRAP_EXTRA_SECONDS = 10.0  # with keyproviders: beyond the longest time limit of a configured one
UNWRAP_LEAST_SECONDS = 5.0  # for one call while others wait
UNWRAP_ATTEMPTS = 16384  # operations with a private key, for one layer; one with RSA takes about 1 ms
UNWRAP_FIRST_ATTEMPTS = 256  # of them for one descriptor, until those of other descriptors had as many
UNPROVEN_KEYS = 4  # of one layer: what was unwrapped without integrity protection, for its HMAC to decide

# The cipher (AES-256-CTR + HMAC-SHA256).
SYMMETRIC_KEY_BYTES = 32
NONCE_BYTES = 16
HMAC_BYTES = 32

# The stream. The reference keeps back 10 KiB until the HMAC has been checked; containerd takes
# plaintext that ends early as the signal of a damaged layer, so ours keeps back as much.
TAIL_BYTES = 10 * KIB
BUFFER_BYTES = 256 * KIB  # the ring of them stays in the second-level cache of a core
SMALL_PIPE_BUFFER_BYTES = 64 * KIB
LARGE_BUFFER_BYTES = 1 * MIB
LARGE_AFTER_BYTES = 16 * MIB
RING_BUFFERS = 4
THREAD_AFTER_BYTES = 4 * MIB
PIPE_BYTES = 1 * MIB

# A failure keeps standard output open until its exit status was collected: for how long at most, how often
# it looks, and how much time the collector gets to take note.
HOLD_SECONDS = 2.0
HOLD_POLL_SECONDS = 0.005
HOLD_AFTER_SECONDS = 0.1

# What an error may print of untrusted text.
QUOTED_CHARACTERS = 200
REPORTED_ATTEMPTS = 64
STANDARD_ERROR_BYTES = 16 * KIB  # one message, for any failure
JOURNAL_BYTES = 4 * KIB
JOURNAL_MESSAGES = 100  # of all decoders of one user within JOURNAL_WINDOW_SECONDS
JOURNAL_WINDOW_SECONDS = 60
WAITING_SECONDS = 5.0  # after which a wait for a key service is noted in the journal
IMAGE_NAME_SECONDS = 1.0  # the search for a failed layer's image
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

# PKCS#7.
CMS_BYTES = 256 * KIB
CMS_RECIPIENTS = 64
CERTIFICATE_BYTES = 64 * KIB
RECIPIENT_RSA_BITS = 2048  # the least to encrypt to; private keys of any size open layers
WEAK_RSA_BITS = 1024  # the least with --allow-weak-keys
RECIPIENT_KEYS = 64  # in one file
BER_ELEMENTS = 4096  # in one SEQUENCE, SET or string, or within one of indefinite length
OID_BYTES = 32  # of an object identifier that a message names
BER_DEPTH = 16  # of indefinite lengths within each other

# Unix sockets: the longest path (unix(7)), and how long a server waits for another one that starts beside it.
UNIX_PATH_BYTES = 107
SOCKET_LOCK_SECONDS = 5.0
SOCKET_LOCK_POLL_SECONDS = 0.01

# Keyproviders.
PROVIDER_MESSAGE_BYTES = 1 * MIB
PROVIDER_SECONDS = 30.0
OPENED_KEKS = 256
KEK_SECONDS = 60.0  # how long an opened key-encryption key is used again: the duration of a pull
PROVIDER_OWN_SHARE = 5 / 6  # of a provider's time, after which our own provider gives up, with a better error
PROVIDER_ERROR_BYTES = 2 * KIB

# Cloud key services. Their time is less than PROVIDER_SECONDS, so that it is their error which is seen.
PROVIDER_WRAPPED_BYTES = 128 * KIB
CLOUD_KMS_SECONDS = 25.0
CLOUD_KMS_CONNECT_SECONDS = 5.0
CLOUD_KMS_READ_SECONDS = 10.0
GCP_KMS_PLAINTEXT_BYTES = 64 * KIB
AWS_KMS_PLAINTEXT_BYTES = 4 * KIB
PROVIDER_FILE_BYTES = 1 * MIB

# Keyproviders, the client. A provider's own `timeout` may be longer than PROVIDER_SECONDS, up to this.
PROVIDER_TIMEOUT_SECONDS = 600.0
PROVIDER_ANNOTATION_BYTES = 256 * KIB
PROVIDER_DRAIN_SECONDS = 1.0  # for what the processes that a command left running still write
PROVIDER_REAP_SECONDS = 5.0
PROVIDER_FIRST_PAUSE_SECONDS = 0.25  # the bound of the first random pause before another attempt; each one doubles it
PROVIDER_LONGEST_PAUSE_SECONDS = 4.0
PROVIDER_RETRIES = 2  # after a connection that the server ended after the TLS handshake, as a stranger's
PROVIDER_PROBE_SECONDS = 3.0
DOCTOR_SECONDS = 10.0  # for a program that only prints information
DOCTOR_LAYER_SECONDS = 1800.0  # for a layer that is tried
CONFIGURATION_WARNINGS = 16

# Keyproviders, as a server. A client's deadline may be shorter; calls beyond a bound are told that the server is busy.
PROVIDER_REQUEST_SECONDS = 30.0
# Connections and calls are per process. A connection has PROVIDER_SERVER_STREAMS calls at a time; others wait there.
PROVIDER_SERVER_PROCESSES = 8  # by default; --processes may ask for up to 64
PROVIDER_SERVER_MAX_PROCESSES = 64
PROVIDER_SERVER_CONNECTIONS = 1000
PROVIDER_SERVER_STREAMS = 128
PROVIDER_SERVER_CALLS = 8192
PROVIDER_SERVER_WAITING = 512  # calls that wait for a thread or a key service
PROVIDER_SERVER_BYTES = 64 * MIB  # of the requests that are being answered
PROVIDER_SERVER_THREADS = 32
PROVIDER_SERVER_HANDSHAKE_SECONDS = 10.0
PROVIDER_SERVER_IDLE_SECONDS = 300.0
PROVIDER_SERVER_AGE_SECONDS = 3600.0  # then a client connects again, perhaps to another server
CERTIFICATE_WARNING_SECONDS = 24 * 3600.0  # before it expires
CERTIFICATE_REMINDER_SECONDS = 3600.0
PROVIDER_SERVER_START_SECONDS = 60.0
PROVIDER_SERVER_RESPAWN_SECONDS = 1.0
PROVIDER_SERVER_GRACE_SECONDS = 25.0
PROVIDER_SERVER_BUFFER_BYTES = 64 * KIB  # of a connection that wait for its client, and for the gRPC server
# What a client has to read the end, or to send its first call to a server that ends.
PROVIDER_SERVER_LEAVE_SECONDS = 2.0
PROVIDER_SERVER_BACKLOG = 4096  # connections that wait to be accepted; the kernel may have a lower bound
PROVIDER_SERVER_ACCEPTS = 64  # connections that are accepted at a time
PROVIDER_SERVER_FILES = 256  # that are open beside those of connections, of which each has three
AUDITED_CAUSE_CHARACTERS = 500
CLIENT_POLICY_BYTES = 1 * MIB
CLIENT_RULES = 1024
CLIENT_BURST = 1_000_000
CLIENT_RATES = 65_536  # clients whose requests are counted at a time
CLIENT_NAMES = 64  # in a client's certificate
AUDITED_HANDSHAKES = 20  # that were refused, in a second; others are counted
PROVIDER_SERVER_BEAT_SECONDS = 1.0  # how often a process says that it is alive
PROVIDER_SERVER_STUCK_SECONDS = 30.0  # after which it is not
PROVIDER_SERVER_CHECK_SECONDS = 10.0  # how often it looks for its key service, and how long that may take
PROVIDER_SERVER_SATURATED = 0.9  # of a bound, from which the server is not ready
STATUS_REQUEST_BYTES = 8 * KIB  # /metrics, /healthz, /readyz
STATUS_CONNECTIONS = 32
STATUS_SECONDS = 10.0

# Images: manifests, and the local places they are in. A layer may have any size, and is never held whole.
IMAGE_MANIFESTS = 1024
IMAGE_MANIFESTS_BYTES = 16 * MIB  # with the configurations
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

# Images in a registry. The times are of one conversation; REGISTRY_LEAST_RATE, in bytes per second, bounds a slow one.
REGISTRY_CONNECT_SECONDS = 10.0
REGISTRY_IDLE_SECONDS = 60.0
REGISTRY_LEAST_RATE = 4 * KIB
REGISTRY_COMMIT_SECONDS = 600.0  # a registry may read all of a blob before it answers
REGISTRY_ATTEMPTS = 5
REGISTRY_RETRY_SECONDS = 0.5  # doubled before each further attempt
REGISTRY_RETRY_AFTER_SECONDS = 30.0
REGISTRY_REDIRECTS = 5
REGISTRY_ERROR_BYTES = 16 * KIB
REGISTRY_TOKEN_BYTES = 256 * KIB
REGISTRY_TOKEN_SECONDS = 60.0  # how long a token is valid that does not say so
REGISTRY_REFERENCE_CHARACTERS = 512
REGISTRY_TAGS = 65536
DOCKER_SECONDS = 300.0  # a daemon may compute for a while before it sends an image
STORAGE_SECONDS = 3600.0  # for a program that copies an image
DOCKER_CONFIG_BYTES = 1 * MIB
CREDENTIAL_HELPER_SECONDS = 30.0
CREDENTIAL_HELPER_BYTES = 64 * KIB

# Images in containerd's store. Its own messages are at most 16 MiB; a lease ends by itself if we were killed.
CONTAINERD_SECONDS = 60.0
CONTAINERD_MESSAGE_BYTES = 16 * MIB
CONTAINERD_WRITE_BYTES = 1 * MIB
CONTAINERD_WRITES_AHEAD = 4
CONTAINERD_LEASE_SECONDS = 24 * 3600.0

# Grants: artifacts in a registry, which is not trusted. A sealed key or grant names every plain layer of its image.
GRANTS_ARTIFACT_BYTES = JWE_BYTES
GRANTS_STATEMENT_BYTES = 170 * KIB  # signed, before it is encrypted
GRANTS_REQUEST_BYTES = 32 * KIB
GRANTS_CERTIFICATES = 4  # in a request: the leaf and its issuers
GRANTS_CERTIFICATE_BYTES = 4 * KIB  # of each
GRANTS_TEXT_CHARACTERS = 512
GRANTS_LAYERS = 900
GRANTS_OWNERS = 16
GRANTS_LISTED = 1000  # artifacts that one command reads, of however many there are
GRANTS_CLOCK_SECONDS = 300  # by which clocks may differ
GRANTS_DAYS = 30  # how long a grant holds by default
GRANTS_MOST_DAYS = 3650
GRANTS_PER_HOUR = 60  # approvals by rules, by default
GRANTS_INTERVAL_SECONDS = 15
GRANTS_WAIT_SECONDS = 450.0  # the longest that a node waits for a grant
GRANTS_POLL_SECONDS = 2.0  # the first pause of a node that waits; each one doubles it
GRANTS_LONGEST_POLL_SECONDS = 15.0

# Confidential Containers: packets and where their keys come from. A first attestation
# fetches collateral from elsewhere, so that it takes long; the provider itself then gets COCO_PROVIDER_SECONDS.
COCO_KID_CHARACTERS = 1024
COCO_RESOURCE_BYTES = 4 * KIB  # a key has 32; larger ones are not read to their end
COCO_SOURCE_SECONDS = 8.0
COCO_ATTESTATION_SECONDS = 60.0
COCO_PROVIDER_SECONDS = 90.0
COCO_SOURCES = 16
DENY_RULES = 256

# Confidential Containers: what agents in the guest say.
TTRPC_MESSAGE_BYTES = 4 * MIB  # the most that the framing allows
AGENT_TOKEN_BYTES = 64 * KIB

# Confidential Containers: key brokers. A token is made for each key that is registered.
KBS_ADMIN_TOKEN_SECONDS = 300

# The resident agent. A client's request holds its command line and environment. AGENT_SPARE_WORKERS wait for layers;
# AGENT_WORKERS is how many layers are decrypted at a time: clients beyond it decrypt by themselves.
AGENT_REQUEST_BYTES = 128 * KIB
AGENT_REQUEST_SECONDS = 1.0
AGENT_BACKLOG = 4096
AGENT_IDLE_SECONDS = 300.0
AGENT_SPARE_WORKERS = 2
AGENT_REST_SECONDS = 10.0
AGENT_WORKERS = 128
AGENT_CHECK_SECONDS = 5.0  # how often it looks whether its socket and its program are still there
AGENT_SETTINGS_BYTES = 4 * KIB
AGENT_REASONS = 16
AGENT_STATUS_SECONDS = 5.0
AGENT_STATUS_BYTES = 16 * KIB
AGENT_REFILL_SECONDS = 0.02
AGENT_RESPAWN_SECONDS = 1.0  # after a worker ended before it had anything to do
AGENT_KEEPERS = 4
AGENT_KEEPER_SECONDS = 60.0  # how long a provider, or a connection to one, is used again after it was made
AGENT_KEEPER_BYTES = 2 * MIB
AGENT_SWEEP_SECONDS = 1.0
AGENT_NOTICE_BYTES = 32 * KIB
AGENT_PARSED_KEYS = 256
AGENT_OPENED_SECONDS = 3600.0  # the longest that a key-encryption key can be kept
