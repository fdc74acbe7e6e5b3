#include "trainer/distributed/store.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "data/base/error.h"
#include "trainer/exit_code.h"

namespace rwkv::trainer {
namespace {

bool in_network(uint32_t address, uint32_t network, int bits) {
  return (address ^ network) >> (32 - bits) == 0;
}

bool is_private_v4(uint32_t a) {
  return in_network(a, 0x0A000000, 8) || in_network(a, 0xAC100000, 12) ||
         in_network(a, 0xC0A80000, 16) || in_network(a, 0xA9FE0000, 16) ||
         in_network(a, 0x64400000, 10) || in_network(a, 0x7F000000, 8);
}

Endpoint describe(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  Endpoint endpoint;
  if (address->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    ::inet_ntop(AF_INET, &v4->sin_addr, text.data(), text.size());
    const uint32_t number = ntohl(v4->sin_addr.s_addr);
    endpoint.loopback = in_network(number, 0x7F000000, 8);
    endpoint.is_private = is_private_v4(number);
  } else {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address);
    ::inet_ntop(AF_INET6, &v6->sin6_addr, text.data(), text.size());
    const uint8_t* bytes = v6->sin6_addr.s6_addr;
    endpoint.ipv6 = true;
    endpoint.loopback = IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
    endpoint.is_private = endpoint.loopback || (bytes[0] & 0xFE) == 0xFC ||
                          (bytes[0] == 0xFE && (bytes[1] & 0xC0) == 0x80);
  }
  endpoint.address = text.data();
  return endpoint;
}

sockaddr_storage to_sockaddr(const Endpoint& endpoint, uint16_t port, socklen_t& size) {
  sockaddr_storage storage{};
  if (endpoint.ipv6) {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    ::inet_pton(AF_INET6, endpoint.address.c_str(), &v6->sin6_addr);
    size = sizeof(sockaddr_in6);
  } else {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    ::inet_pton(AF_INET, endpoint.address.c_str(), &v4->sin_addr);
    size = sizeof(sockaddr_in);
  }
  return storage;
}

/// Where ranks of all machines find `host`. Debian gives a machine's own name the address
/// 127.0.1.1, by which no other machine finds it: then the address that it would use to go out is
/// taken.
Endpoint meeting_point(const std::string& host) {
  const Endpoint endpoint = resolve(host);
  const bool meant = host == "localhost" || host == endpoint.address;
  if (!endpoint.loopback || meant) return endpoint;
  Endpoint outside;
  outside.address = "192.0.2.1";  // RFC 5737: nobody has it, so the default route leads there
  try {
    return resolve(own_address_towards(outside));
  } catch (const UserError&) {
    return endpoint;  // a machine without a network is alone
  }
}

/// A socket that listens on that address only. Port 0 takes a free one.
int listen_on(const Endpoint& endpoint, uint16_t port) {
  const int fd = ::socket(endpoint.ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t size = 0;
  const sockaddr_storage address = to_sockaddr(endpoint, port, size);
  const int yes = 1;  // a restart takes the port over at once
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (fd >= 0 && ::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0 &&
      ::listen(fd, SOMAXCONN) == 0) {
    return fd;
  }
  const int reason = errno;
  if (fd >= 0) ::close(fd);
  if (reason == EADDRINUSE) {
    user_error("MASTER_PORT: port {} of {} is in use; choose another one for all ranks", port,
               endpoint.address);
  }
  if (reason == EADDRNOTAVAIL) {
    user_error("MASTER_ADDR: {} is no address of this machine, where rank 0 runs; set it to one",
               endpoint.address);
  }
  user_error("MASTER_ADDR: cannot listen on {} port {}: {}; choose another address or port",
             endpoint.address, port, std::strerror(reason));
}

c10d::TCPStoreOptions options_for(uint16_t port, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.waitWorkers = false;
  options.timeout = timeout;
  return options;
}

uint16_t port_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

StorePtr serve(const Endpoint& endpoint, int fd, std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options = options_for(port_of(fd), timeout);
  options.isServer = true;
  options.masterListenFd = fd;
  return c10::make_intrusive<c10d::TCPStore>(endpoint.address, options);
}

}  // namespace

Endpoint resolve(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (code != 0 || found == nullptr) {
    user_error("MASTER_ADDR: there is no machine '{}' ({}); correct the name or give its number",
               printable(host), ::gai_strerror(code));
  }
  const addrinfo* chosen = found;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    if (one->ai_family == AF_INET) {
      chosen = one;
      break;
    }
  }
  Endpoint endpoint = describe(chosen->ai_addr);
  ::freeaddrinfo(found);
  return endpoint;
}

StoreConnections connect_store(const RankEnvironment& environment,
                               std::chrono::milliseconds timeout, bool allow_public) {
  const Endpoint endpoint = meeting_point(environment.master_addr);
  if (!endpoint.is_private && !allow_public) {
    user_error(
        "MASTER_ADDR: {} is a public address, and whoever reaches it can steer this training; use "
        "an address of a private network, or say --i-know",
        endpoint.address);
  }
  StorePtr main;
  StorePtr heartbeat;
  const c10d::TCPStoreOptions options = options_for(environment.master_port, timeout);
  if (environment.rank == 0 && !environment.store_is_hosted) {
    main = serve(endpoint, listen_on(endpoint, environment.master_port), timeout);
  }
  try {
    const auto connect = [&] {
      return c10::make_intrusive<c10d::TCPStore>(endpoint.address, options);
    };
    if (!main) main = connect();
    heartbeat = connect();
  } catch (const c10::Error&) {
    throw PeerLostError(fmt::format(
        "rank 0 does not answer at {} port {}: it did not start within {} s, or a firewall is "
        "between",
        environment.master_addr, environment.master_port, timeout.count() / 1000));
  }
  const std::string prefix = fmt::format("rwkv/{}", environment.attempt);
  return {c10::make_intrusive<c10d::PrefixStore>(prefix, main),
          c10::make_intrusive<c10d::PrefixStore>(prefix, heartbeat), own_address_towards(endpoint)};
}

HostedStore host_local_store() {
  Endpoint endpoint;
  endpoint.address = "127.0.0.1";
  const int fd = listen_on(endpoint, 0);
  const uint16_t port = port_of(fd);
  return {serve(endpoint, fd, std::chrono::seconds(60)), port};
}

std::string own_address_towards(const Endpoint& endpoint) {
  constexpr uint16_t kAnyPort = 9;  // nothing is sent: connect() only chooses a route
  const int fd = ::socket(endpoint.ipv6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  socklen_t size = 0;
  const sockaddr_storage address = to_sockaddr(endpoint, kAnyPort, size);
  sockaddr_storage own{};
  socklen_t own_size = sizeof(own);
  const bool known = fd >= 0 &&
                     ::connect(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0 &&
                     ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) == 0;
  const int reason = errno;
  if (fd >= 0) ::close(fd);
  if (!known) {
    user_error("MASTER_ADDR: this machine has no way to {}: {}; check the network",
               endpoint.address, std::strerror(reason));
  }
  return describe(reinterpret_cast<const sockaddr*>(&own)).address;
}

}  // namespace rwkv::trainer
