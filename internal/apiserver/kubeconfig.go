package apiserver

import (
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// adminUser is the administrator's name, as in a cluster made by kubeadm.
const adminUser = "kubernetes-admin"

// AdminKubeconfig returns a kubeconfig for server (https://HOST:PORT) with a newly issued client certificate of a member
// of system:masters. It is a secret.
func (s *Server) AdminKubeconfig(server string) ([]byte, error) {
	pair, err := s.pki.Client(adminUser, user.SystemPrivilegedGroup)
	if err != nil {
		return nil, err
	}
	const name = "peapod"
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: s.pki.CA()}
	c.AuthInfos[adminUser] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.Cert, ClientKeyData: pair.Key}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: adminUser}
	c.CurrentContext = name
	return clientcmd.Write(*c)
}
