# fish completion for ctd-decoder
set -l commands image keyprovider config doctor agent
complete -c ctd-decoder -f
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -a "$commands"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l decryption-keys-path -r -a "(__fish_complete_directories)" -d "look for keys there"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l keyprovider-config -rF -d "configures keyproviders"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l release -x -a "streaming verified" -d "when plaintext leaves"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l content-store -r -a "(__fish_complete_directories)" -d "root of containerd"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l require-payload -d "do not look for a descriptor"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l version -d "say which it is"
complete -c ctd-decoder -l help -d "say how it is used"
complete -c ctd-decoder -n "__fish_seen_subcommand_from keyprovider" -a "run serve"
complete -c ctd-decoder -n "__fish_seen_subcommand_from keyprovider" -l provider -x
complete -c ctd-decoder -n "__fish_seen_subcommand_from keyprovider" -l listen -x
complete -c ctd-decoder -n "__fish_seen_subcommand_from config" -a containerd
complete -c ctd-decoder -n "__fish_seen_subcommand_from config" -l config-version -x -a "2 3 4"
complete -c ctd-decoder -n "__fish_seen_subcommand_from config" -l keys-path -r -a "(__fish_complete_directories)"
complete -c ctd-decoder -n "__fish_seen_subcommand_from doctor" -l json -d "print JSON"
complete -c ctd-decoder -n "__fish_seen_subcommand_from doctor" -l containerd-config -rF
complete -c ctd-decoder -n "__fish_seen_subcommand_from image" -a "encrypt decrypt layerinfo check"
complete -c ctd-decoder -n "__fish_seen_subcommand_from image" -l recipient -x -d "whom to encrypt to"
complete -c ctd-decoder -n "__fish_seen_subcommand_from image" -l key -rF -d "opens layers"
complete -c ctd-decoder -n "__fish_seen_subcommand_from image" -l keyprovider-config -rF -d "configures keyproviders"
complete -c ctd-decoder -n "__fish_seen_subcommand_from image" -l layer -x -d "which layers"
complete -c ctd-decoder -n "__fish_seen_subcommand_from image" -l platform -x -d "which platforms"
complete -c ctd-decoder -n "__fish_seen_subcommand_from image" -l json -d "print JSON"
complete -c ctd-decoder -n "__fish_seen_subcommand_from agent" -l listen -rF -d "make this socket"
complete -c ctd-decoder -n "__fish_seen_subcommand_from agent" -l idle -x -d "end when idle for so long"
complete -c ctd-decoder -n "__fish_seen_subcommand_from agent" -l workers -x -d "layers at a time"
complete -c ctd-decoder -n "__fish_seen_subcommand_from agent" -l keep-opened -x -d "use opened keys again for so long"
