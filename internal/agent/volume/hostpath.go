package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
	"k8s.io/kubernetes/pkg/volume/validation"
)

func (v *Volumes) hostPath(source *v1.HostPathVolumeSource) (Volume, error) {
	if err := validation.ValidatePathNoBacksteps(source.Path); err != nil {
		return Volume{}, fmt.Errorf("invalid HostPath `%s`: %w", source.Path, err)
	}
	if source.Type != nil {
		if err := checkHostPath(source.Path, *source.Type); err != nil {
			return Volume{}, err
		}
	}
	return Volume{HostPath: source.Path}, nil
}

// checkHostPath makes what is to be made and refuses what is of another type, in upstream's words
// (pkg/volume/hostpath).
func checkHostPath(path string, want v1.HostPathType) error {
	_, err := os.Stat(path)
	absent := errors.Is(err, fs.ErrNotExist)
	var word string
	var wanted hostutil.FileType
	switch want {
	case v1.HostPathUnset:
		return nil
	case v1.HostPathDirectoryOrCreate:
		if absent {
			return os.MkdirAll(path, 0o755)
		}
		word, wanted = "directory", hostutil.FileTypeDirectory
	case v1.HostPathDirectory:
		word, wanted = "directory", hostutil.FileTypeDirectory
	case v1.HostPathFileOrCreate:
		if absent {
			return makeFile(path, 0o644)
		}
		word, wanted = "file", hostutil.FileTypeFile
	case v1.HostPathFile:
		word, wanted = "file", hostutil.FileTypeFile
	case v1.HostPathSocket:
		word, wanted = "socket file", hostutil.FileTypeSocket
	case v1.HostPathCharDev:
		word, wanted = "character device", hostutil.FileTypeCharDev
	case v1.HostPathBlockDev:
		word, wanted = "block device", hostutil.FileTypeBlockDev
	default:
		return fmt.Errorf("%s is an invalid volume type", want)
	}
	switch got, err := hostutil.NewHostUtil().GetFileType(path); {
	case err != nil:
		return fmt.Errorf("hostPath type check failed, %s is not a %s, unable to determine its type: %w", path, word, err)
	case got != wanted:
		return fmt.Errorf("hostPath type check failed: %s is not a %s, it's a %s", path, word, got)
	}
	return nil
}

func makeFile(path string, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	return file.Close()
}
